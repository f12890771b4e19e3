"""Environments that wait: an action server's workers against Gymnasium's `AsyncVectorEnv`, in the same run.

    python examples/benchmark_vector.py --B 64 --wait 0.001

Each of B processes has one environment that sleeps in `step`, as one would that waits for a simulator elsewhere. Both
sides act with the same model for all B at once; windows of the two alternate, and the ratio is that of their medians.
"""

import argparse
import asyncio
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler import AgentInputs, AsyncGpuSampler, CategoricalPgAgent, Spaces


class WaitingEnv(gym.Env[Any, Any]):
    def __init__(self, seconds: float) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.seconds, self.steps = seconds, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        self.steps += 1
        return np.zeros(4, np.float32), 1.0, self.steps == 200, False, {}


class Policy(nn.Module):
    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.logits, self.value = nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.trunk(observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


class Vectorised:
    """Collects from an `AsyncVectorEnv`, keeping nothing."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.environments = gym.vector.AsyncVectorEnv([lambda: WaitingEnv(args.wait)] * args.B)
        self.agent = CategoricalPgAgent(Policy)
        space = self.environments
        self.agent.initialize(Spaces(space.single_observation_space, space.single_action_space))
        self.agent.sample_mode(0)
        self.observation = self.environments.reset()[0]
        self.nulls = torch.zeros(args.B, dtype=torch.int64), torch.zeros(args.B)

    @torch.inference_mode()
    def rate(self, seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            action, _, _ = self.agent.step(AgentInputs(torch.from_numpy(self.observation), *self.nulls), None)
            self.observation, *_ = self.environments.step(action.numpy())
            steps += len(self.observation)
        return steps / (time.perf_counter() - began)


async def rate(sampler: AsyncGpuSampler, seconds: float) -> float:
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        steps += (await sampler.obtain_samples()).stats.env_steps
    return steps / (time.perf_counter() - began)


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    vectorised = Vectorised(args)
    sampler = AsyncGpuSampler(
        WaitingEnv,
        env_kwargs={"seconds": args.wait},
        agent=CategoricalPgAgent(Policy),
        batch_T=128,
        batch_B=args.B,
        n_workers=args.B,
        start_method=args.start_method,
        overlap=False,  # so that it rests while the other is measured
    )
    ours, theirs = [], []
    async with sampler:
        await rate(sampler, args.seconds)
        for _ in range(args.windows):
            theirs.append(vectorised.rate(args.seconds))
            ours.append(await rate(sampler, args.seconds))
    vectorised.environments.close()
    got, reference = statistics.median(ours), statistics.median(theirs)
    print(
        f"{args.B} environments that wait {args.wait * 1e3:g} ms: AsyncGpuSampler {got:,.0f} steps/s, "
        f"AsyncVectorEnv {reference:,.0f} steps/s, ratio {got / reference:.2f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--B", type=int, default=64)
    parser.add_argument("--wait", type=float, default=0.001, help="seconds that a step takes")
    parser.add_argument("--start-method", default="forkserver")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    asyncio.run(main(parser.parse_args()))
