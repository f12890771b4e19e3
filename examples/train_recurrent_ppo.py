"""PPO on CartPole without velocities: an agent with an LSTM balances the pole, one that sees the moment alone cannot.

Ctrl-C ends the training of either early: what was learned is evaluated and drawn all the same."""

import argparse
import asyncio
import dataclasses
import functools
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import AsyncCpuSampler, CategoricalPgAgent, Samples


@dataclasses.dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 300_000  # environment steps at most; training ends before if the evaluation reaches `goal`
    goal: float = 485.0  # mean return
    output: str = "train_recurrent_ppo.png"  # the learning curves
    epochs: int = 10  # gradient steps on a batch
    learning_rate: float = 3e-3  # at the start; it falls to zero
    discount: float = 0.98
    gae_lambda: float = 0.9
    clip: float = 0.2  # how far the policy may move within a batch


def cartpole_without_velocities() -> gym.Env[Any, Any]:
    seen = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda observation: observation[[0, 2]], seen)


class Policy(nn.Module):
    """Logits ``[B, A]``, values ``[B]`` and the next state, from observations ``[B, n]`` and a state."""

    def __init__(self, observation_space: Any, action_space: Any, *, remembers: bool) -> None:
        super().__init__()
        self.remembers = remembers
        self.body = nn.Sequential(nn.Linear(observation_space.shape[0], 32), nn.Tanh())
        self.memory = nn.LSTMCell(32, 64)
        self.heads = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, int(action_space.n) + 1))

    def initial_state(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(batch_size, 64), torch.zeros(batch_size, 64)

    def forward(self, observation: torch.Tensor, prev_action: Any, prev_reward: Any, state: Any) -> Any:
        state = self.memory(self.body(observation), state if self.remembers else None)  # None: zeros
        output = self.heads(state[0])
        return output[:, :-1], output[:, -1], state


def advantages(samples: Samples, args: Args) -> torch.Tensor:
    """Generalised advantage estimates ``[T, B]`` (Schulman et al. 2016)."""
    agent: Any = samples.agent  # with values, since they were asked for
    env, value = samples.env, agent.agent_info["value"]
    following = torch.cat((value[1:], agent.bootstrap_value[None]))
    # The value of a final observation is that under the LSTM's state before its reset, which only the sampler has.
    following = torch.where(env.done, agent.final_value.dense() * ~env.terminated, following)
    delta = (1 - args.discount) * env.reward + args.discount * following - value  # scaled to values of 0 to 1
    advantage, ahead = torch.empty_like(delta), torch.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        advantage[t] = ahead = delta[t] + args.discount * args.gae_lambda * ~env.done[t] * ahead
    return advantage


def unroll(model: nn.Module, samples: Samples) -> list[torch.Tensor]:
    """Logits ``[T, B, A]`` and values ``[T, B]``, from the state that the sampler had before the batch."""
    state, outputs = samples.agent.initial_state, []
    for observation, first in zip(samples.env.observation, samples.env.first, strict=True):
        state = tuple(leaf * ~first[:, None] for leaf in state)  # an episode begins with zeros
        logits, value, state = model(observation, None, None, state)
        outputs.append((logits, value))
    return [torch.stack(rows) for rows in zip(*outputs, strict=True)]


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, args: Args) -> None:
    action, info, advantage = samples.agent.action, samples.agent.agent_info, advantages(samples, args)
    goal, advantage = advantage + info["value"], (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    for _ in range(args.epochs):
        logits, value = unroll(model, samples)
        ratio = (logits.log_softmax(-1).gather(-1, action[..., None]).squeeze(-1) - info["log_prob"]).exp()
        policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
        optimizer.zero_grad()
        torch.autograd.backward(policy_loss + 0.5 * nn.functional.mse_loss(value, goal))
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


async def train(args: Args, agent: str) -> list[tuple[int, float]]:
    evaluations = [(0, float("nan"))]  # environment steps so far, mean return
    async with AsyncCpuSampler(
        cartpole_without_velocities,
        agent=CategoricalPgAgent(functools.partial(Policy, remembers=agent == "with an LSTM"), recurrent=True),
        batch_T=32,  # steps, through which gradients flow
        batch_B=32,
        n_workers=2,
        seed=args.seed,
        bootstrap_value=True,
        eval_n_envs=20,
        eval_max_steps=100 * 500,
        overlap=False,  # each batch is collected with what was learned from the one before
    ) as sampler:
        model: Any = sampler.agent.model
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
        progress = tqdm(total=args.steps, unit=" steps", desc=agent)
        try:
            async for samples in sampler:
                progress.update(samples.stats.env_steps)
                progress.set_postfix_str(f"return {sampler.statistics().mean_return or 0:.0f}", refresh=False)
                optimizer.param_groups[0]["lr"] = args.learning_rate * max(0.0, 1 - progress.n / args.steps)
                learn(model, optimizer, samples, args)
                sampler.publish()
                if samples.itr % 15 == 14:
                    infos = await sampler.evaluate_agent(max_trajectories=20)
                    evaluations.append((progress.n, float(np.mean([info.Return for info in infos]))))
                if progress.n >= args.steps or evaluations[-1][1] >= args.goal:
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; go on with what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        returns = [info.Return for info in await sampler.evaluate_agent(max_trajectories=100)]
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes, {agent}")
    return [*evaluations, (progress.n, float(np.mean(returns)))]


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the network is small
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    for agent in ("with an LSTM", "without memory"):
        curve = await train(args, agent)
        args = dataclasses.replace(args, steps=curve[-1][0])  # as many for the other
        axes.plot(*np.array(curve).T, "o-", label=agent)
    axes.set(title="PPO on CartPole-v1 without velocities", xlabel="environment steps", ylabel="mean return")
    axes.legend()
    figure.savefig(args.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
