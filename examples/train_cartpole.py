"""Asynchronous double DQN on CartPole: this process trains while the sampler's process collects.

    python examples/train_cartpole.py --seed 0

Ctrl-C ends the training early; the best policy so far is evaluated and the learning curve drawn all the same.
"""

import argparse
import asyncio
import copy
from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from aiosampler import AsyncSerialSampler, DqnAgent


@dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 200_000  # environment steps at most
    output: str = "train_cartpole.png"  # the learning curve
    batch_T: int = 16  # time steps of a batch
    batch_B: int = 16  # environments
    learn_starts: int = 2_000  # environment steps before the first update
    updates: int = 32  # gradient steps per batch
    update_size: int = 128  # transitions per gradient step
    replay_size: int = 50_000
    lr: float = 5e-4
    discount: float = 0.99
    tau: float = 0.005  # how far the target network follows at each gradient step
    eps_final: float = 0.05
    eps_itr_max: int = 100  # batches until epsilon is final
    eval_every: int = 20  # batches


def q_network(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> nn.Module:
    assert isinstance(observation_space, gym.spaces.Box)
    assert isinstance(action_space, gym.spaces.Discrete)
    (n_inputs,), n_actions = observation_space.shape, int(action_space.n)
    return nn.Sequential(
        nn.Linear(n_inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, n_actions)
    )


class ReplayBuffer:
    """The newest `capacity` transitions: observation, action, reward, next observation, terminated."""

    def __init__(self, capacity: int, n_inputs: int) -> None:
        self.capacity, self.added = capacity, 0
        self.columns = (
            torch.zeros(capacity, n_inputs),
            torch.zeros(capacity, dtype=torch.int64),
            torch.zeros(capacity),
            torch.zeros(capacity, n_inputs),
            torch.zeros(capacity, dtype=torch.bool),
        )

    def add(self, *batch: torch.Tensor) -> None:
        """Copy a batch of [T, B, ...] tensors."""
        rows = torch.arange(self.added, self.added + batch[0].shape[:2].numel()) % self.capacity
        for column, values in zip(self.columns, batch, strict=True):
            column[rows] = values.flatten(0, 1)
        self.added += len(rows)

    def draw(self, n: int) -> list[torch.Tensor]:
        rows = torch.randint(min(self.added, self.capacity), (n,))
        return [column[rows] for column in self.columns]


def learn(online: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer, replay: ReplayBuffer, args: Args) -> None:
    """One gradient step of double DQN, and one small step of the target network."""
    observation, action, reward, next_observation, terminated = replay.draw(args.update_size)
    with torch.no_grad():
        next_action = online(next_observation).argmax(-1, keepdim=True)
        next_q = target(next_observation).gather(-1, next_action).squeeze(-1)
        goal = reward + args.discount * next_q * ~terminated  # a truncated episode would have gone on: bootstrap
    q = online(observation).gather(-1, action[:, None]).squeeze(-1)
    optimizer.zero_grad()
    F.smooth_l1_loss(q, goal).backward()
    nn.utils.clip_grad_norm_(online.parameters(), 10.0)
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, args.tau)


def draw_curve(path: str, episodes: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if episodes:
        steps, returns = np.array(episodes).T
        window = min(50, len(returns))
        axes.plot(steps, returns, ".", color="tab:blue", alpha=0.15, label="training episodes")
        smooth = np.convolve(returns, np.ones(window) / window, "valid")
        axes.plot(steps[window - 1 :], smooth, color="tab:blue", label=f"mean of {window} episodes")
    if evaluations:
        axes.plot(*zip(*evaluations, strict=True), "o-", color="tab:orange", label="evaluation")
    axes.set(title="Asynchronous double DQN on CartPole-v1", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(path)


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the networks are tiny
    sampler_ = AsyncSerialSampler(
        "CartPole-v1",
        agent=DqnAgent(q_network, eps_final=args.eps_final, eps_itr_max=args.eps_itr_max),
        batch_T=args.batch_T,
        batch_B=args.batch_B,
        seed=args.seed,
        eval_n_envs=10,
        eval_max_steps=100 * 500,
        eval_max_trajectories=100,
        overlap=True,  # collect the next batch while we train on this one
    )
    episodes: list[tuple[int, float]] = []  # environment steps so far, return
    evaluations: list[tuple[int, float]] = []
    recent: deque[float] = deque(maxlen=50)
    async with sampler_ as sampler:
        online = sampler.agent.model
        target = copy.deepcopy(online)
        best, best_return = online, -1.0
        optimizer = torch.optim.Adam(online.parameters(), lr=args.lr)
        replay = ReplayBuffer(args.replay_size, n_inputs=4)
        version = 0
        progress = tqdm(total=args.steps, unit=" steps")
        try:
            async for samples in sampler:
                env = samples.env
                replay.add(env.observation, samples.agent.action, env.reward, env.next_observation(), env.terminated)
                recent.extend(info.Return for info in samples.traj_infos)
                episodes += [(replay.added, info.Return) for info in samples.traj_infos]
                progress.set_postfix(
                    {"return": f"{np.mean(recent) if recent else 0:.1f}", "lag": version - samples.policy_version},
                    refresh=False,
                )
                progress.update(samples.stats.env_steps)
                if replay.added >= args.learn_starts:
                    for _ in range(args.updates):
                        learn(online, target, optimizer, replay, args)
                    version = sampler.publish(online)
                    if samples.itr % args.eval_every == 0:
                        mean = float(np.mean([info.Return for info in await sampler.evaluate_agent()]))
                        evaluations.append((replay.added, mean))
                        if mean >= best_return:
                            best, best_return = copy.deepcopy(online), mean
                        if mean >= 500:
                            break
                if replay.added >= args.steps:
                    break
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
        progress.close()
        sampler.publish(best)
        final = await sampler.evaluate_agent()
    draw_curve(args.output, episodes, evaluations)
    print("evals", evaluations)
    print(f"evaluation: mean return {np.mean([i.Return for i in final]):.1f} over {len(final)} episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    asyncio.run(main(Args(**vars(parser.parse_args()))))
