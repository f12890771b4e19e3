"""Double DQN on CartPole: this process trains on one batch while the sampler's process collects the next.

Ctrl-C ends the training early: the best policy so far is evaluated, and the learning curve drawn, all the same.
"""

import argparse
import asyncio
import copy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import AsyncSerialSampler, DqnAgent


@dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 300_000  # environment steps at most; training ends before if all evaluation episodes are perfect
    output: str = "train_cartpole.png"  # the learning curve
    batch_T: int = 16  # time steps of a batch
    batch_B: int = 16  # environments
    learn_starts: int = 2_000  # environment steps before the first gradient step
    updates: int = 16  # gradient steps per batch
    update_size: int = 256  # transitions of a gradient step
    replay_size: int = 100_000  # transitions
    learning_rate: float = 1e-3
    discount: float = 0.99
    tau: float = 0.02  # how far the target network moves at each gradient step
    eps_final: float = 0.05
    eps_itr_max: int = 100  # batches until epsilon is final
    eval_every: int = 20  # batches


def q_network(observation_space: Any, action_space: Any) -> nn.Module:
    layers = [nn.Linear(observation_space.shape[0], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, int(action_space.n)))


class Replay:
    """The newest transitions: observation, action, reward, next observation, terminated."""

    def __init__(self, size: int) -> None:
        self.size, self.added = size, 0
        vectors, scalars = torch.zeros(2, size, 4), torch.zeros(size)
        self.columns = (vectors[0], scalars.long(), scalars, vectors[1], scalars.bool())

    def add(self, *batch: torch.Tensor) -> None:  # [T, B, ...]
        rows = torch.arange(self.added, self.added + batch[0].shape[:2].numel()) % self.size
        for column, values in zip(self.columns, batch, strict=True):
            column[rows] = values.flatten(0, 1)
        self.added += len(rows)

    def draw(self, n: int) -> list[torch.Tensor]:
        rows = torch.randint(min(self.added, self.size), (n,))
        return [column[rows] for column in self.columns]


def learn(online: nn.Module, target: nn.Module, optimizer: torch.optim.Optimizer, replay: Replay, args: Args) -> None:
    observation, action, reward, next_observation, terminated = replay.draw(args.update_size)
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, args.tau)
        # The online network chooses the next action, and the target network says what it is worth.
        next_action = online(next_observation).argmax(-1, keepdim=True)
        next_q = target(next_observation).gather(-1, next_action).squeeze(-1)
        # A truncated episode would have gone on, so only termination cuts the future off. The rewards are scaled so
        # that q is between 0 and 1: on errors above 1 the Huber loss would not heed the rare falls enough.
        goal = (1 - args.discount) * reward + args.discount * next_q * ~terminated
    q = online(observation).gather(-1, action[:, None]).squeeze(-1)
    optimizer.zero_grad()
    torch.autograd.backward(nn.functional.huber_loss(q, goal))
    nn.utils.clip_grad_norm_(online.parameters(), 10.0)
    optimizer.step()


def draw_curve(path: str, episodes: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> None:
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    if episodes:
        steps, returns = np.array(episodes).T
        n = min(50, len(returns))
        axes.plot(steps, returns, ".", color="tab:blue", alpha=0.15, label="training episodes")
        axes.plot(steps[n - 1 :], np.convolve(returns, np.ones(n) / n, "valid"), label=f"mean of {n} episodes")
    axes.plot(*np.array(evaluations).reshape(-1, 2).T, "o-", label="evaluation")
    axes.set(title="Asynchronous double DQN on CartPole-v1", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(path)


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the network is small, and the sampler needs a CPU too
    episodes: list[tuple[int, float]] = []  # environment steps so far, return
    evaluations: list[tuple[int, float]] = []  # environment steps so far, mean return
    async with AsyncSerialSampler(
        "CartPole-v1",
        agent=DqnAgent(q_network, eps_init=1.0, eps_final=args.eps_final, eps_itr_max=args.eps_itr_max),
        batch_T=args.batch_T,
        batch_B=args.batch_B,
        seed=args.seed,
        eval_n_envs=10,
        eval_max_trajectories=100,
        eval_max_steps=100 * 500,
        overlap=True,  # collect the next batch while this process trains
    ) as sampler:
        online = sampler.agent.model
        assert online is not None
        target, best = copy.deepcopy(online), online
        optimizer = torch.optim.Adam(online.parameters(), lr=args.learning_rate)
        replay = Replay(args.replay_size)
        progress = tqdm(total=args.steps, unit=" steps")
        try:
            async for samples in sampler:
                env, action = samples.env, samples.agent.action
                replay.add(env.observation, action, env.reward, env.next_observation(), env.terminated)
                episodes += [(replay.added, info.Return) for info in samples.traj_infos]
                recent = np.array(episodes[-50:] or [(0, 0)])[:, 1].mean()
                lag = sampler.policy_version - samples.policy_version
                progress.set_postfix_str(f"return {recent:.0f}, policy lag {lag}", refresh=False)
                progress.update(samples.stats.env_steps)
                if replay.added >= args.learn_starts:
                    for _ in range(args.updates):
                        learn(online, target, optimizer, replay, args)
                    sampler.publish(online)
                if samples.itr % args.eval_every == args.eval_every - 1:
                    result = float(np.mean([info.Return for info in await sampler.evaluate_agent()]))
                    evaluations.append((replay.added, result))
                    if result >= max(mean for _, mean in evaluations):
                        best = copy.deepcopy(online)
                if replay.added >= args.steps or (evaluations and evaluations[-1][1] >= 500):
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; go on with what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        sampler.publish(best)
        returns = [info.Return for info in await sampler.evaluate_agent()]
    draw_curve(args.output, episodes, evaluations)
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
