"""An agent that sees a stack of the last K observations, while batches hold each observation once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.utils import create_zero_array

from aiosampler.agents.agent import Agent, AgentInputs, AgentStep
from aiosampler.agents.indexing import indexable
from aiosampler.errors import ConfigError
from aiosampler.specs.arguments import as_integer
from aiosampler.specs.arrays import Spaces, space_specs
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.agents.adopted import AdoptedParameters
    from aiosampler.agents.parameters import Publisher

PADDINGS = ("reset", "zero")


class FrameStackAgent(Agent):
    """Shows another agent the last K observations of each environment, oldest first: `[B, K, ...]`.

    It replaces `gymnasium.wrappers.FrameStackObservation`, with the same results bit for bit. Environments give single
    observations, so each is recorded, and sent to a device, once instead of K times. The earlier ones are recurrent
    state, which the sampler keeps, resets where episodes end, and records where batches begin. For training,
    `FrameStacks` makes the stacks of a batch::

        agent = FrameStackAgent(CategoricalPgAgent(conv_net), 4)  # conv_net sees [B, 4, 84, 84]
        async with AsyncGpuSampler(atari_frames, agent=agent, batch_T=128, batch_B=32) as sampler:
            async for samples in sampler:  # samples.env.observation is [T, B, 84, 84]
                stacks = FrameStacks(samples, agent)
                logits, value = agent.model(stacks[t, b])  # [n, 4, 84, 84], of indices [n]

    Environments must take no random steps that the agent does not see: after those (`max_decorrelation_steps`), it
    begins with the observation that it is given first, as after a reset.

    Args:
        agent: The agent that sees the stacks; it is initialised with their space.
        stack_size: K, at least 2.
        padding: What stands for observations before the first of an episode: ``"reset"``, that one, or ``"zero"``.

    Attributes:
        agent: The agent that sees the stacks.
        zero: The observation for ``"zero"``, a tree ``[...]``: zeros, or the first element of a Discrete space.

    Raises:
        ConfigError: `stack_size` or `padding` is wrong.
        TypeError: `agent` is not an `Agent`.
    """

    recurrent = True
    zero: Tree

    def __init__(self, agent: Agent, stack_size: int, *, padding: str = "reset") -> None:
        if not isinstance(agent, Agent):
            raise TypeError(f"agent must be an instance of Agent, got {agent!r}")
        if padding not in PADDINGS:
            raise ConfigError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        self.agent, self.padding = agent, padding
        self.stack_size = as_integer("stack_size", stack_size, 2)
        self.model, self.cuda_graph = agent.model, agent.cuda_graph

    def initialize(self, spaces: Spaces) -> None:
        """Initialise the other agent for stacks."""
        specs, zeros = space_specs(spaces.observation, "observation"), create_zero_array(spaces.observation)
        self.zero = tree_map(lambda spec, zero: torch.from_numpy(np.array(zero, spec.dtype)), specs, zeros)
        self.agent.initialize(Spaces(batch_space(spaces.observation, self.stack_size), spaces.action))
        self.model = self.agent.model

    def initial_state(self, batch_size: int) -> Tree:
        """No observations yet: ``frames [B, K - 1, ...]``, ``begun [B]`` bool, and the other agent's state."""

        def frames(zero: torch.Tensor) -> torch.Tensor:
            return indexable(zero).expand(batch_size, self.stack_size - 1, *zero.shape).contiguous()

        return {
            "frames": tree_map(frames, self.zero),
            "begun": torch.zeros(batch_size, dtype=torch.bool),
            "agent": self.agent.initial_state(batch_size),
        }

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Step the other agent on the stacks."""
        stack = self._stack(inputs, state)
        action, agent_info, after = self.agent.step(inputs._replace(observation=stack), state["agent"])
        frames = tree_map(lambda leaf: indexable(leaf)[:, 1:], stack)
        return AgentStep(
            action, agent_info, {"frames": frames, "begun": torch.ones_like(state["begun"]), "agent": after}
        )

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The other agent's values of the stacks."""
        return self.agent.value(inputs._replace(observation=self._stack(inputs, state)), state["agent"])

    def check_outputs(self, inputs: AgentInputs, state: Tree) -> None:
        """As of the other agent."""
        self.agent.check_outputs(inputs._replace(observation=self._stack(inputs, state)), state["agent"])

    def collector_initialize(self, global_B: int, env_ranks: Sequence[int]) -> None:
        """As of the other agent."""
        self.agent.collector_initialize(global_B, env_ranks)

    def sample_mode(self, itr: int) -> None:
        """As of the other agent."""
        self.agent.sample_mode(itr)
        self.mode = self.agent.mode

    def eval_mode(self, itr: int) -> None:
        """As of the other agent."""
        self.agent.eval_mode(itr)
        self.mode = self.agent.mode

    def train_mode(self, itr: int) -> None:
        """As of the other agent."""
        self.agent.train_mode(itr)
        self.mode = self.agent.mode

    def recv_shared_memory(self) -> int:
        """As of the other agent."""
        return self.agent.recv_shared_memory()

    def attach(self, parameters: Publisher | AdoptedParameters) -> None:
        """Connect both agents with the parameters."""
        super().attach(parameters)
        self.agent.attach(parameters)

    def detach(self, parameters: Publisher | AdoptedParameters | None) -> None:
        """End the connection of both agents."""
        super().detach(parameters)
        self.agent.detach(parameters)

    def _stack(self, inputs: AgentInputs, state: Tree) -> Tree:
        """The stacks ``[B, K, ...]``, in new memory."""
        begun = state["begun"]
        # On a device, testing a value would wait for the device; on the CPU it saves the select, the slowest operation
        as_they_are = self.padding == "zero" or (begun.device.type == "cpu" and bool(begun.all()))

        def stack(leaf: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
            last = indexable(leaf)[:, None]
            if not as_they_are:
                frames = torch.where(begun.view(-1, *[1] * (last.dim() - 1)), frames, last)
            return torch.cat((frames, last), 1).view(leaf.dtype)

        return tree_map(stack, inputs.observation, state["frames"])
