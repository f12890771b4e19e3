"""Environment steps per second of 1, 2 and 4 actors on Ray beside the local sampler, and what a batch costs.

On one machine all of them share its CPUs, so this shows what the way over Ray costs, not what more nodes give. Ray runs
here for as long as it takes, unless ``--address`` names a cluster.

- ``--rllib``: RLlib's env runners as well, with the same world, network and cluster (``pip install 'ray[rllib]'``).
- ``--bytes 31250``: batches of 64 MB. ``--every 0.25`` asks for one four times a second, so that what they do to the
  event loop of this process is seen beside what it is for itself: how late it is, and which of its CPU they take.
"""

import argparse
import asyncio
import os
from time import perf_counter, process_time, thread_time
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
    """Logits and values of observations, as RLlib makes them by default; of long ones it looks at the beginning."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self._n = min(64, observation_space.shape[0])
        self.policy, self.critic = self._mlp(int(action_space.n)), self._mlp(1)

    def _mlp(self, n: int) -> nn.Module:
        return nn.Sequential(nn.Linear(self._n, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = observation[..., : self._n].float()
        return self.policy(x), self.critic(x).squeeze(-1)


class Lag:
    """How late the event loop is, over and over, and for how long something has kept it from turning."""

    def __init__(self, every: float = 0.002) -> None:
        self._every = every
        self._late: list[float] = []
        self._busy: list[float] = []  # in the CPU time of this thread, which others on this machine do not lengthen

    async def watch(self) -> None:
        while True:
            before, busy = perf_counter(), thread_time()
            await asyncio.sleep(self._every)
            self._late.append(perf_counter() - before - self._every)
            self._busy.append(thread_time() - busy)

    def __str__(self) -> str:
        late, busy = (np.percentile(times, 99) * 1e3 if times else np.nan for times in (self._late, self._busy))
        return f"loop late by {late:.2f} ms, busy for {busy:.2f} ms (99th percentiles of {len(self._late)})"


async def measure(name: str, sampler: Any, args: argparse.Namespace) -> None:
    """Collect for some seconds, and print what came."""
    lag = Lag()
    async with sampler:
        for _ in range(10):
            samples = await sampler.obtain_samples()
        nbytes = sum(leaf.nbytes for leaf in pytree.tree_leaves(samples))
        watching = asyncio.create_task(lag.watch())
        began, cpu, steps, batches = perf_counter(), process_time(), 0, 0
        while perf_counter() - began < args.seconds:
            samples = await sampler.obtain_samples()
            steps += samples.stats.env_steps
            batches += 1
            if not args.keep:
                sampler.publish()
            await asyncio.sleep(max(0.0, began + batches * args.every - perf_counter()))
        spent, cpu = perf_counter() - began, process_time() - cpu
        watching.cancel()
        del samples
    print(
        f"{name:>20}: {steps / spent:>9,.0f} steps/s, {batches / spent:>7,.1f} batches/s of {nbytes / 1e6:.2f} MB "
        f"({nbytes * batches / spent / 1e6:,.0f} MB/s), {spent / batches * 1e3:.2f} ms each, "
        f"{cpu / batches * 1e3:.2f} ms of this process's CPU; {lag}",
        flush=True,
    )


async def measure_idle(args: argparse.Namespace) -> None:
    """Print how late the event loop is while nothing is collected."""
    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(args.seconds)
    watching.cancel()
    print(f"{'nothing':>20}: {lag}", flush=True)


def measure_rllib(n: int, args: argparse.Namespace) -> None:
    """Collect with env runners as RLlib's IMPALA does: two requests to each are under way, with weights for each."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    T, B = args.batch_T, args.batch_B
    model = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
    config = PPOConfig().environment("CartPole-v1").rl_module(model_config=model)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=B, rollout_fragment_length=T)
    runner_class = ray.remote(num_cpus=1)(SingleAgentEnvRunner)
    runners = [runner_class.remote(config=config, worker_index=k + 1) for k in range(n)]
    ray.get([runner.sample.remote(num_timesteps=T * B) for runner in runners])
    under_way = {runner.sample.remote(num_timesteps=T * B): runner for runner in runners for _ in range(2)}
    state = ray.get(runners[0].get_state.remote(components=["rl_module"]))
    began, cpu, steps, batches = perf_counter(), process_time(), 0, 0
    while perf_counter() - began < args.seconds:
        (ref,), _ = ray.wait(list(under_way), num_returns=1)
        runner = under_way.pop(ref)
        steps += sum(len(episode) for episode in ray.get(ref))
        batches += 1
        if not args.keep:
            runner.set_state.remote(ray.put(state))
        under_way[runner.sample.remote(num_timesteps=T * B)] = runner
    spent, cpu = perf_counter() - began, process_time() - cpu
    for runner in runners:
        ray.kill(runner)
    print(
        f"{f'{n} runners of RLlib':>20}: {steps / spent:>9,.0f} steps/s, {batches / spent:>7,.1f} batches/s, "
        f"{spent / batches * 1e3:.2f} ms each, {cpu / batches * 1e3:.2f} ms of this process's CPU",
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
            await measure_idle(args)
            await measure("local", AsyncCpuSampler(env_fn, agent=CategoricalPgAgent(Policy), **settings), args)
            for n in args.actors:
                agent = CategoricalPgAgent(Policy)
                sampler = RaySampler(AsyncCpuSampler, env_fn, agent=agent, n_actors=n, **settings)
                await measure(f"{n} actor{'s' * (n > 1)} on Ray", sampler, args)
                if args.rllib:
                    measure_rllib(n, args)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch_T", type=int, default=64)
    parser.add_argument("--batch_B", type=int, default=32)
    parser.add_argument("--bytes", type=int, default=0, help="of an observation of a world that costs nothing")
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one batch to the next, at least")
    parser.add_argument("--keep", action="store_true", help="publish nothing")
    parser.add_argument("--rllib", action="store_true", help="RLlib's env runners as well, on CartPole")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--store", type=int, default=1_000_000_000, help="bytes of the object store, if Ray runs here")
    given = parser.parse_args()
    if given.rllib and given.bytes:
        parser.error("--rllib is for CartPole, without --bytes")
    asyncio.run(main(given))
