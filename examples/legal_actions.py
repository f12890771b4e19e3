"""An agent that takes legal actions alone: Taxi tells which these are, in its infos.

python examples/legal_actions.py
"""

import asyncio
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import nn

from aiosampler import Agent, AgentInputs, AgentStep, AsyncSerialSampler, Spaces


class LegalAgent(Agent):
    """Draws from a policy over the legal actions; its model is a table of logits for each state."""

    def initialize(self, spaces: Spaces) -> None:
        states, actions = spaces
        assert isinstance(states, Discrete)
        assert isinstance(actions, Discrete)
        self.model = self.logits = nn.Embedding(int(states.n), int(actions.n))

    def step(self, inputs: AgentInputs, state: Any) -> AgentStep:
        mask = inputs.env_info["action_mask"].bool()  # [B, A], of the observation that is acted on, also after resets
        probabilities = self.logits(inputs.observation).masked_fill(~mask, -torch.inf).softmax(-1)
        return AgentStep(torch.multinomial(probabilities, 1).squeeze(-1))


async def main() -> None:
    async with AsyncSerialSampler(
        "Taxi-v4", agent=LegalAgent(), batch_T=64, batch_B=8, env_info_keys=("action_mask",), seed=0
    ) as sampler:
        taken = illegal = 0
        for _ in range(20):
            samples = await sampler.obtain_samples()
            mask = samples.env.prev_env_info["action_mask"]  # [T, B, A]
            legal = mask.gather(-1, samples.agent.action[..., None]).bool()
            taken, illegal = taken + legal.numel(), illegal + int((~legal).sum())
        print(f"{illegal} of {taken} actions were illegal")


if __name__ == "__main__":
    asyncio.run(main())
