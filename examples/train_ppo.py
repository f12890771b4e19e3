"""PPO on CartPole: two workers collect a batch with the newest policy, this process trains on it, and so on in turn.

Ctrl-C ends the training early: what was learned is evaluated, and the learning curve drawn, all the same.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import AsyncCpuSampler, CategoricalPgAgent, Samples


@dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 150_000  # environment steps at most; training ends before if the evaluation reaches `goal`
    goal: float = 495.0  # mean return of 20 episodes; at 475, which counts as solved, luck would end it now and then
    output: str = "train_ppo.png"  # the learning curve
    batch_T: int = 32  # time steps of a batch
    batch_B: int = 16  # environments
    epochs: int = 8  # passes over a batch
    minibatches: int = 2  # of a pass
    learning_rate: float = 3e-3  # at the start; it falls to zero
    discount: float = 0.98
    gae_lambda: float = 0.9
    clip: float = 0.2  # how far the policy may move within a batch
    eval_every: int = 20  # batches


class ActorCritic(nn.Module):
    """Logits ``[..., A]`` and values ``[...]`` of observations ``[..., n]``."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        n = observation_space.shape[0]
        self.policy = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, int(action_space.n)))
        self.critic = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(observation), self.critic(observation).squeeze(-1)


def advantages(samples: Samples, args: Args) -> torch.Tensor:
    """Generalised advantage estimates ``[T, B]`` (Schulman et al. 2016)."""
    agent, env = samples.agent, samples.env
    assert agent.bootstrap_value is not None
    assert agent.final_value is not None
    value = agent.agent_info["value"]
    following = torch.cat((value[1:], agent.bootstrap_value[None]))
    # A truncated episode would have gone on from its final observation; a terminated one is worth nothing more.
    following = torch.where(env.done, agent.final_value.dense() * ~env.terminated, following)
    delta = env.reward + args.discount * following - value
    advantage, ahead = torch.empty_like(delta), torch.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        advantage[t] = ahead = delta[t] + args.discount * args.gae_lambda * ~env.done[t] * ahead
    return advantage


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, args: Args) -> None:
    info, advantage = samples.agent.agent_info, advantages(samples, args)
    batch = samples.env.observation, samples.agent.action, info["log_prob"], advantage, advantage + info["value"]
    flat = [leaf.flatten(0, 1) for leaf in batch]
    for _ in range(args.epochs):
        for rows in torch.randperm(len(flat[1])).chunk(args.minibatches):
            observation, action, old_log_prob, advantage, goal = (leaf[rows] for leaf in flat)
            logits, value = model(observation)
            log_probs = torch.log_softmax(logits, -1)
            ratio = (log_probs.gather(-1, action[:, None]).squeeze(-1) - old_log_prob).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
            optimizer.zero_grad()
            torch.autograd.backward(policy_loss + 0.5 * nn.functional.mse_loss(value, goal))
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


def draw_curve(path: str, episodes: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> None:
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    axes.plot(*np.array(episodes).reshape(-1, 2).T, ".", alpha=0.3, label="training episodes")
    axes.plot(*np.array(evaluations).reshape(-1, 2).T, "o-", label="evaluation")
    axes.set(title="PPO on CartPole-v1", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(path)


@contextlib.contextmanager
def until_ctrl_c() -> Iterator[None]:
    """End the block, and nothing else, on Ctrl-C, upon which asyncio cancels this task."""
    try:
        yield
    except asyncio.CancelledError:
        if task := asyncio.current_task():
            task.uncancel()


async def main(args: Args) -> None:
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the network is small
    episodes: list[tuple[int, float]] = []  # environment steps so far, return
    evaluations: list[tuple[int, float]] = []  # environment steps so far, mean return
    async with AsyncCpuSampler(
        "CartPole-v1",
        agent=CategoricalPgAgent(ActorCritic),
        batch_T=args.batch_T,
        batch_B=args.batch_B,
        n_workers=2,
        seed=args.seed,
        bootstrap_value=True,
        eval_n_envs=20,
        eval_max_steps=20 * 500,
        overlap=False,  # each batch is collected with what was learned from the one before
    ) as sampler:
        model = sampler.agent.model
        assert model is not None
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
        with until_ctrl_c(), tqdm(total=args.steps, unit=" steps") as progress:
            async for samples in sampler:
                episodes += [(progress.n, info.Return) for info in samples.traj_infos]
                progress.update(samples.stats.env_steps)
                progress.set_postfix_str(f"return {sampler.statistics().mean_return or 0:.0f}", refresh=False)
                optimizer.param_groups[0]["lr"] = args.learning_rate * max(0.0, 1 - progress.n / args.steps)
                learn(model, optimizer, samples, args)
                sampler.publish()
                if samples.itr % args.eval_every == args.eval_every - 1:
                    evaluation = await sampler.evaluate_agent(max_trajectories=20)
                    evaluations.append((progress.n, float(np.mean([info.Return for info in evaluation]))))
                if progress.n >= args.steps or (evaluations and evaluations[-1][1] >= args.goal):
                    break
        seconds = time.perf_counter() - began
        returns = [info.Return for info in await sampler.evaluate_agent(max_trajectories=100, max_steps=100 * 500)]
    draw_curve(args.output, episodes, evaluations)
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes, trained for {seconds:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
