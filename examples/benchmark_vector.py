"""Vector environments as units of workers, against their ceilings and what their libraries do themselves, in one run.

    python examples/benchmark_vector.py
    python examples/benchmark_vector.py --worlds waiting --B 64 --wait 0.001

`cartpole` (T=32, B=64, a model of two layers) and `pong` (B=16, the Nature CNN) are stepped by two workers each: as
vector environments of Gymnasium and EnvPool, and as single environments. The ceiling of a unit of n environments is
2 n / (time of its step + time of the agent's step on n), each measured by itself, over and over. In turn, as they are
needed, each takes longer, since the other has used the caches of the CPU and its branch predictors, and two processes
may be slower than one where CPUs share a core: "bare" are two processes that step and act in turn, at the same time,
and do nothing else. EnvPool's own loop is asynchronous: its two threads step one half while the agent acts for the
other.

Workers with EnvPool have a CPU each: a step is passed on to a thread of EnvPool's and back, and that is slow from one
CPU to the other.

`waiting` compares environments that sleep in `step`, as they would for a simulator elsewhere, each in a process of its
own: an action server's workers and Gymnasium's `AsyncVectorEnv`.

All act with the same agent. Windows of all of them alternate, and each ratio is the median over the windows.
"""

import argparse
import asyncio
import contextlib
import functools
import importlib.util
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler import AgentInputs, AsyncCpuSampler, AsyncGpuSampler, CategoricalPgAgent, Spaces, make_affinity
from aiosampler.commands.bench import rate
from aiosampler.commands.ceilings import seconds_per_call

WORKERS = 2
ENVPOOL: dict[str, dict[str, Any]] = {
    "cartpole": {"task_id": "CartPole-v1"},
    "pong": {"task_id": "Pong-v5", "stack_num": 4, "frame_skip": 4},
}


def envpool_of(world: str, num_envs: int, **settings: Any) -> Any:
    import envpool  # the extra `worlds`

    return envpool.make_gymnasium(**ENVPOOL[world], num_envs=num_envs, seed=0, **settings)


def cartpole() -> "gym.Env[Any, Any]":
    return gym.make("CartPole-v1", disable_env_checker=True)


def pong() -> "gym.Env[Any, Any]":
    import ale_py  # the extra `atari`

    gym.register_envs(ale_py)
    env = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True)
    env = gym.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84, grayscale_obs=True)
    return gym.wrappers.FrameStackObservation(env, 4)


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
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self.images = len(observation_space.shape) == 3
        if self.images:
            convolutions = (nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3))
            self.trunk = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
        else:
            self.trunk = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        hidden = 512 if self.images else 64
        self.logits, self.value = nn.Linear(hidden, int(action_space.n)), nn.Linear(hidden, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.trunk(observation.float().mul_(1 / 255) if self.images else observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


class Acting:
    """The agent, for whoever steps environments here; it keeps nothing of what it did."""

    def __init__(self, spaces: Spaces, n: int) -> None:
        self.agent = CategoricalPgAgent(Policy)
        self.agent.initialize(spaces)
        self.agent.sample_mode(0)
        self.nulls = torch.zeros(n, dtype=torch.int64), torch.zeros(n)

    @torch.inference_mode()
    def act(self, observation: np.ndarray[Any, Any]) -> Any:
        action, _, _ = self.agent.step(AgentInputs(torch.from_numpy(observation), *self.nulls), None)
        return action.numpy()


class Ceiling:
    """The steps per second of workers that do nothing but step n environments in a call, and act for them."""

    def __init__(self, make: Callable[..., Any], n: int) -> None:
        self.env, self.n = make(num_envs=n), n
        self.observation = np.array(self.env.reset()[0])
        self.acting = Acting(spaces_of(self.env), n)
        self.actions = np.random.default_rng(0).integers(0, 2, (64, n))
        self.seconds: list[tuple[float, float]] = []

    async def rate(self, seconds: float) -> float:
        env = seconds_per_call(self.step, seconds / 2) / len(self.actions)
        agent = seconds_per_call(lambda: self.acting.act(self.observation), seconds / 2)
        self.seconds.append((env, agent))
        return WORKERS * self.n / (env + agent)

    def step(self) -> None:
        for action in self.actions:
            self.env.step(action)


class Bare:
    """Processes with a CPU each that step and act in turn; they count steps as a sampler does, without resets."""

    def __init__(self, make: Callable[..., Any], n: int, start_method: str) -> None:
        context: Any = multiprocessing.get_context(start_method)
        self.ends = []
        for rank in range(WORKERS):
            ours, theirs = context.Pipe()
            context.Process(target=bare, args=(theirs, make, n, rank), daemon=True).start()
            self.ends.append(ours)

    async def rate(self, seconds: float) -> float:
        for end in self.ends:
            end.send(seconds)
        return float(sum([end.recv() for end in self.ends]))


def bare(end: Any, make: Callable[..., Any], n: int, rank: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, [cpus[rank % len(cpus)]])
    torch.set_num_threads(1)
    env = make(num_envs=n)
    acting, observation = Acting(spaces_of(env), n), np.array(env.reset()[0])
    while True:
        steps, seconds, began = 0, end.recv(), time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            for _ in range(32):
                observation[...], _, terminated, truncated, _ = env.step(acting.act(observation))
                steps += n - int(np.count_nonzero(terminated | truncated))  # the step after an end is a reset
        end.send(steps / elapsed)


def spaces_of(vector: Any) -> Spaces:
    if isinstance(vector, gym.vector.VectorEnv):
        return Spaces(vector.single_observation_space, vector.single_action_space)
    return Spaces(vector.observation_space, vector.action_space)  # EnvPool's


class EnvPoolLoop:
    """Collects by EnvPool's `send` and `recv`, half of the environments at a time, as one would write it by hand."""

    def __init__(self, make: Callable[..., Any], B: int, T: int) -> None:
        n = B // 2
        settings = {"num_threads": WORKERS, "thread_affinity_offset": 0}  # a CPU for each thread
        self.env = make(num_envs=B, batch_size=n, **settings)
        self.env.async_reset()
        self.next = self.env.recv()
        self.acting = Acting(spaces_of(self.env), n)
        self.observations = np.zeros((T, *self.next[0].shape), self.next[0].dtype)
        self.actions = np.zeros((T, n), np.int32)
        self.rewards, self.done = np.zeros((T, n), np.float32), np.zeros((T, n), np.bool_)

    async def rate(self, seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            for t in range(len(self.actions)):
                self.observations[t], _, _, _, info = self.next
                self.actions[t] = self.acting.act(self.observations[t])
                self.env.send(self.actions[t], info["env_id"])
                self.next = self.env.recv()
                _, self.rewards[t], terminated, truncated, _ = self.next
                self.done[t] = terminated | truncated
            steps += self.actions.size
        return steps / elapsed


class Vectorised:
    """Collects from an `AsyncVectorEnv`, keeping nothing."""

    def __init__(self, env_fn: Callable[..., Any], B: int) -> None:
        self.env = gym.vector.AsyncVectorEnv([env_fn] * B)
        self.acting = Acting(spaces_of(self.env), B)
        self.observation = self.env.reset()[0]

    async def rate(self, seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            self.observation, *_ = self.env.step(self.acting.act(self.observation))
            steps += len(self.observation)
        return steps / elapsed


class Ours:
    """A sampler, which has a batch ready when it is measured, and rests while others are."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    async def rate(self, seconds: float) -> float:
        got = await rate(self.sampler, seconds)
        batch: float = self.sampler.options.batch.T * self.sampler.options.batch.B
        await asyncio.sleep(0.05 + 1.5 * batch / got)  # until the batch ahead is complete
        return got


async def compare(world: str, args: argparse.Namespace) -> None:
    """Measure all in turn, and print a line for each."""
    B = args.B or {"cartpole": 64, "pong": 16, "waiting": 64}[world]
    units: dict[str, Callable[..., Any]] = {}
    if world == "cartpole":
        units["CartPoleVectorEnv"] = functools.partial(gym.make_vec, "CartPole-v1")
    pooled = world != "waiting" and importlib.util.find_spec("envpool") is not None
    if pooled:
        units["EnvPool"] = functools.partial(envpool_of, world, num_threads=1)
    single: Any = {"cartpole": cartpole, "pong": pong, "waiting": functools.partial(WaitingEnv, args.wait)}[world]
    async with contextlib.AsyncExitStack() as opened:

        async def ours(
            env_fn: Callable[..., Any], kind: type = AsyncCpuSampler, T: int = 32, n_workers: int = 2, **settings: Any
        ) -> Ours:
            settings |= {"n_workers": n_workers, "start_method": args.start_method, "overlap": world != "waiting"}
            sampler = kind(env_fn, agent=CategoricalPgAgent(Policy), batch_T=T, batch_B=B, seed=0, **settings)
            return Ours(await opened.enter_async_context(sampler))

        measured: dict[str, Any] = {}
        for name, make in units.items():
            measured[f"ceiling of {name}"] = Ceiling(make, B // WORKERS)
            measured[f"{name}, bare"] = Bare(make, B // WORKERS, args.start_method)
            affinity = make_affinity(WORKERS) if name == "EnvPool" else None
            measured[f"{name}, as a unit"] = await ours(make, affinity=affinity)
        if world == "waiting":
            measured["AsyncVectorEnv"] = reference = Vectorised(single, B)
            opened.callback(reference.env.close)
            measured["AsyncGpuSampler"] = await ours(single, AsyncGpuSampler, 128, B)
        else:
            measured["single environments"] = await ours(single)
        if pooled:
            measured["EnvPool's own loop"] = EnvPoolLoop(functools.partial(envpool_of, world), B, 32)
        rates: dict[str, list[float]] = {name: [] for name in measured}
        for window in range(-1, args.windows):
            for name, each in measured.items():
                got = await each.rate(args.seconds if window >= 0 else 0.1)  # the first is a warm-up
                if window >= 0:
                    rates[name].append(got)
    peer, alone = "AsyncVectorEnv" if world == "waiting" else "EnvPool's own loop", "single environments"
    print(f"{world}, B={B}" + (f", which waits {args.wait * 1e3:g} ms" if world == "waiting" else ""))
    for name, each in measured.items():
        unit = name.removesuffix(", as a unit")
        notes = [
            f"{ratio(rates[name], rates[other]):.2f} times {other}"
            for other in (f"ceiling of {unit}", f"{unit}, bare", peer, alone)
            if other in rates and other != name and isinstance(each, Ours)
        ]
        if isinstance(each, Ceiling):
            env, agent = (statistics.median(column) * 1e6 for column in zip(*each.seconds[1:], strict=True))
            notes = [f"{each.n} environments {env:.1f} us, agent {agent:.1f} us"]
        print(f"  {name:32} {statistics.median(rates[name]):10,.0f} steps/s  {', '.join(notes)}", flush=True)


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for world in args.worlds.split(","):
        await compare(world, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="cartpole,pong", help="of cartpole, pong, waiting")
    parser.add_argument("--B", type=int, help="number of environments, if not as above; 64 for waiting")
    parser.add_argument("--wait", type=float, default=0.001, help="seconds that a step takes")
    parser.add_argument("--start-method", default="forkserver")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    asyncio.run(main(parser.parse_args()))
