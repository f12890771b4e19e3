"""Environment steps per second of 1, 2 and 4 actors on Ray beside the local sampler, and what a batch costs.

On one machine all of them share its CPUs, so this shows what the way over Ray costs, not what more nodes give. Ray runs
here for as long as it takes, unless ``--address`` names a cluster.
"""

import argparse
import asyncio
import os
from time import perf_counter, process_time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from aiosampler import AsyncCpuSampler, CategoricalPgAgent

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what it will do some day


class Images(gym.Env[Any, Any]):
    """Costs nothing to step, and shows so many bytes: what is measured is their way."""

    def __init__(self, nbytes: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (nbytes,), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self._image = np.zeros(nbytes, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._image, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._image, 1.0, False, False, {}


class Policy(nn.Module):
    """Logits and values of observations; of long ones it looks at the beginning."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self._n = min(64, observation_space.shape[0])
        self.policy, self.critic = nn.Linear(self._n, int(action_space.n)), nn.Linear(self._n, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = observation[..., : self._n].float()
        return self.policy(x), self.critic(x).squeeze(-1)


async def lag(samples: list[float], every: float = 0.002) -> None:
    """Measure how late the event loop is, over and over."""
    while True:
        before = perf_counter()
        await asyncio.sleep(every)
        samples.append(perf_counter() - before - every)


async def measure(name: str, sampler: Any, seconds: float) -> None:
    """Collect for some seconds, and print what came."""
    lags: list[float] = []
    async with sampler:
        for _ in range(10):
            samples = await sampler.obtain_samples()
        nbytes = sum(leaf.nbytes for leaf in pytree.tree_leaves(samples))
        watching = asyncio.create_task(lag(lags))
        began, cpu, steps, batches = perf_counter(), process_time(), 0, 0
        while perf_counter() - began < seconds:
            samples = await sampler.obtain_samples()
            steps += samples.stats.env_steps
            batches += 1
            sampler.publish()
            await asyncio.sleep(0)
        spent, cpu = perf_counter() - began, process_time() - cpu
        watching.cancel()
        del samples
    p99 = np.percentile(lags, 99) * 1e3 if lags else float("nan")
    print(
        f"{name:>20}: {steps / spent:>9,.0f} steps/s, {batches / spent:>7,.1f} batches/s of {nbytes / 1e6:.2f} MB "
        f"({nbytes * batches / spent / 1e6:,.0f} MB/s), {spent / batches * 1e3:.2f} ms each, "
        f"{cpu / batches * 1e3:.2f} ms of this process's CPU; "
        f"loop late by {p99:.2f} ms (99th percentile of {len(lags)})",
        flush=True,
    )


async def main(args: argparse.Namespace) -> None:
    import ray

    from aiosampler.ray import RaySampler

    options = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    if args.address is None:
        ray.init(num_cpus=max(args.actors), object_store_memory=args.store, **options)
    else:
        ray.init(address=args.address, **options)
    env_fn: Any = "CartPole-v1"
    settings: dict[str, Any] = {"batch_T": args.batch_T, "batch_B": args.batch_B, "n_workers": 1, "seed": 1}
    if args.bytes:
        env_fn, settings["env_kwargs"] = Images, {"nbytes": args.bytes}
    try:
        for _ in range(args.rounds):
            agent = CategoricalPgAgent(Policy)
            await measure("local", AsyncCpuSampler(env_fn, agent=agent, **settings), args.seconds)
            for n in args.actors:
                agent = CategoricalPgAgent(Policy)
                sampler = RaySampler(AsyncCpuSampler, env_fn, agent=agent, n_actors=n, **settings)
                await measure(f"{n} actor{'s' * (n > 1)} on Ray", sampler, args.seconds)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch_T", type=int, default=64)
    parser.add_argument("--batch_B", type=int, default=32)
    parser.add_argument("--bytes", type=int, default=0, help="of an observation of a world that costs nothing")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--store", type=int, default=500_000_000, help="bytes of the object store, if Ray runs here")
    asyncio.run(main(parser.parse_args()))
