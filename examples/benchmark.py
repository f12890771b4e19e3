"""How fast samplers are, as a share of what the same machine could do at best, measured in the same run.

    python examples/benchmark.py --env cartpole --B 16 --workers 2
    python examples/benchmark.py --env pong --samplers gpu,alternating --affinity apart
    python examples/benchmark.py --env cartpole-vector --samplers cpu --T 32 --B 64
    python examples/benchmark.py --env wait-1ms --samplers cpu --T 32 --B 64
    python examples/benchmark.py --env wait-50ms --samplers cpu --T 16 --B 1000 --seconds 5 --windows 3
    python examples/benchmark.py --env unequal --samplers gpu,dynamic --B 64 --workers 64 --T 32 --start-method fork
    python examples/benchmark.py --env unequal-awaited --samplers gpu,dynamic --B 64 --T 32 --alone

The ceiling of a sampler with W workers of n = B / W environments each is W * n / (n * (time of one environment's step)
+ (time to act on n observations)): nothing recorded, nobody waited for. An action server acts on all B observations
while the workers wait; if groups alternate, it is all the work there is, spread evenly over W CPUs. Acting is what one
would write by hand: the model, a multinomial draw, its log-probability, and conversion to NumPy. Windows of the
ceiling's two times and of all samplers alternate, so that a machine that changes its speed changes it for all. Medians
are shown; `strict` is the share of a ceiling with the time of the agent's own step, which is faster. The ceilings of
environments that are awaited wait for the slowest, which `dynamic` does not: it may have a multiple of theirs. Unequal
waits of 1 ms, and of 20 ms each twentieth time, are 1.95 ms on average: 64 such environments allow 32,800 steps/s. That
is more than any sampler can have: `--alone` shows what these environments do by themselves in as many processes, with
nobody to act for them. Switching between 64 processes on 2 cores takes its part, and event loops wake a coroutine at
whole milliseconds only. A column runs at most one batch ahead of the slowest: even if acting took no time, T=32 would
allow 25,400 steps/s, T=64 28,700, T=128 30,300 (simulated), since slow steps even out over a long batch.

A core is often slower while the others are busy, too: `--busy` measures a ceiling on W cores at once, which says what
is left to gain for samplers that keep all of them busy.
"""

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler import (
    AgentInputs,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    AsyncSerialSampler,
    CategoricalPgAgent,
    Spaces,
    make_affinity,
)
from aiosampler.commands.bench import rate
from aiosampler.commands.ceilings import seconds_per_call


def make_pong() -> "gym.Env[Any, Any]":
    import ale_py  # the extra `atari`
    import cv2

    cv2.setNumThreads(0)
    gym.register_envs(ale_py)
    env = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True)
    env = gym.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84, grayscale_obs=True)
    return gym.wrappers.FrameStackObservation(env, 4)


def make_cartpole() -> "gym.Env[Any, Any]":
    return gym.make("CartPole-v1", disable_env_checker=True)


def make_cartpole_vector(num_envs: int) -> Any:
    return gym.make_vec("CartPole-v1", num_envs)


def make_cartpole_envpool(num_envs: int) -> Any:
    import envpool  # the extra `worlds`

    return envpool.make_gymnasium("CartPole-v1", num_envs=num_envs, num_threads=1, seed=0)


def make_pong_envpool(num_envs: int) -> Any:
    import envpool

    return envpool.make_gymnasium("Pong-v5", num_envs=num_envs, num_threads=1, seed=0, stack_num=4, frame_skip=4)


class Waiting(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole whose steps wait 1 ms, as a simulator elsewhere would have it; with `slow`, every twentieth 20 ms."""

    def __init__(self, *, slow: bool) -> None:
        super().__init__(make_cartpole())
        self.slow, self.random = slow, random.Random()

    def step(self, action: Any) -> Any:
        time.sleep(0.02 if self.slow and self.random.random() < 0.05 else 0.001)
        return self.env.step(action)


class Awaited:
    """Waits for somebody else, as a simulator behind a network does; the environments of a worker wait together."""

    def __init__(self, seconds: float = 0.001, *, slow: bool = False) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)
        self._seconds, self._seen = seconds, np.zeros(4, np.float32)
        self._slow, self._random = slow, random.Random()

    async def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._seen, {}

    async def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        await asyncio.sleep(20 * self._seconds if self._slow and self._random.random() < 0.05 else self._seconds)
        return self._seen, 0.0, False, False, {}

    async def close(self) -> None: ...


class WaitingTogether:
    """The ceiling of those: n of them gathered on uvloop, with the interface of a vector environment."""

    def __init__(self, n: int, seconds: float = 0.001, *, slow: bool = False) -> None:
        import uvloop

        self._loop = uvloop.new_event_loop()
        self._environments = [Awaited(seconds, slow=slow) for _ in range(n)]
        self.observation_space = self.single_observation_space = self._environments[0].observation_space
        self.action_space = self.single_action_space = self._environments[0].action_space

    def reset(self) -> tuple[Any, dict[str, Any]]:
        return np.zeros((len(self._environments), 4), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        self._loop.run_until_complete(self._gather(actions))
        return (None,) * 5

    async def _gather(self, actions: Any) -> None:
        await asyncio.gather(*(env.step(action) for env, action in zip(self._environments, actions, strict=True)))


class Policy(nn.Module):
    """Logits and value: the Nature CNN for images, two layers of 64 otherwise."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        assert isinstance(observation_space, gym.spaces.Box)
        assert isinstance(action_space, gym.spaces.Discrete)
        self.images = len(observation_space.shape) == 3
        if self.images:
            convolutions = (nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3))
            self.trunk = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
        else:
            width = observation_space.shape[0]
            self.trunk = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        hidden = 512 if self.images else 64
        self.logits, self.value = nn.Linear(hidden, int(action_space.n)), nn.Linear(hidden, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.trunk(observation.float().mul_(1 / 255) if self.images else observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


class Ceiling:
    """Measures the best possible rate of a number of workers, for whom the agent acts `acts` times a step."""

    def __init__(self, env_fn: Callable[..., Any], n: int, n_acting: int, acts: float, *, vector: bool) -> None:
        self.env, self.n, self.acts, self.vector = env_fn(n) if vector else env_fn(), n, acts, vector
        observation = self.env.reset()[0]
        spaces = Spaces(self.env.observation_space, self.env.action_space)
        if vector:
            observation, spaces = (
                observation[0],
                Spaces(self.env.single_observation_space, self.env.single_action_space),
            )
        self.agent = CategoricalPgAgent(Policy)
        self.agent.initialize(spaces)
        self.agent.sample_mode(0)
        actions = np.random.default_rng(0).integers(0, spaces.action.n, (64, n) if vector else 64)  # type: ignore[attr-defined] # Discrete
        self.actions: Any = list(actions) if vector else actions.tolist()
        observation = torch.from_numpy(np.stack([observation] * n_acting))
        self.inputs = AgentInputs(observation, torch.zeros(n_acting, dtype=torch.int64), torch.zeros(n_acting))

    def step_environment(self) -> None:
        for action in self.actions:
            _, _, terminated, truncated, _ = self.env.step(action)
            if not self.vector and (terminated or truncated):
                self.env.reset()

    @torch.inference_mode()
    def act(self) -> None:
        assert self.agent.model is not None
        logits, value = self.agent.model(self.inputs.observation)
        log_probs = torch.log_softmax(logits, -1)
        action = torch.multinomial(log_probs.exp(), 1)
        for tensor in (action.squeeze(-1), log_probs.gather(-1, action).squeeze(-1), value):
            tensor.numpy()

    @torch.inference_mode()
    def step_agent(self) -> None:
        self.agent.step(self.inputs, None)

    def measure(self, workers: int, seconds: float) -> tuple[float, float, float, float]:
        """Two ceilings in steps per second, and the seconds of one environment's step and of acting."""
        env = seconds_per_call(self.step_environment, seconds / 2) / len(self.actions) / (self.n if self.vector else 1)
        act, step = (seconds_per_call(call, seconds / 4) for call in (self.act, self.step_agent))
        best, strict = [workers * self.n / (self.n * env + self.acts * acting) for acting in (act, step)]
        return best, strict, env, act


ENVIRONMENTS: dict[str, Callable[..., Any]] = {
    "cartpole": make_cartpole,
    "pong": make_pong,
    "cartpole-vector": make_cartpole_vector,
    "cartpole-envpool": make_cartpole_envpool,
    "pong-envpool": make_pong_envpool,
    "equal": functools.partial(Waiting, slow=False),
    "unequal": functools.partial(Waiting, slow=True),
}


ENVIRONMENTS["wait-1ms"] = Awaited
ENVIRONMENTS["wait-50ms"] = functools.partial(Awaited, 0.05)
ENVIRONMENTS["unequal-awaited"] = functools.partial(Awaited, slow=True)
CEILINGS: dict[str, Callable[..., Any]] = {
    **ENVIRONMENTS,
    "wait-1ms": WaitingTogether,
    "wait-50ms": functools.partial(WaitingTogether, seconds=0.05),
    "unequal-awaited": functools.partial(WaitingTogether, slow=True),
}


@functools.cache  # in each process that measures
def ceiling(env: str, n: int, n_acting: int, acts: float) -> Ceiling:
    return Ceiling(CEILINGS[env], n, n_acting, acts, vector="-" in env)


def measure(of: tuple[str, int, int, float], workers: int, seconds: float) -> tuple[float, float, float, float]:
    return ceiling(*of).measure(workers, seconds)


async def measure_busy(
    pool: ProcessPoolExecutor, of: tuple[str, int, int, float], workers: int, seconds: float
) -> list[float]:
    loop = asyncio.get_running_loop()
    measuring = (loop.run_in_executor(pool, measure, of, workers, seconds) for _ in range(workers))
    return [statistics.mean(column) for column in zip(*await asyncio.gather(*measuring), strict=True)]


async def step_awaited(env: Any, until: float) -> int:
    steps = 0
    while time.perf_counter() < until:
        await env.step(0)
        steps += 1
    return steps


def step_alone(env_fn: Callable[..., Any], n: int, begins: float, seconds: float) -> tuple[int, float]:
    """Step n environments from a common time on; return the number of steps, and the CPU time that they took."""
    environments = [env_fn() for _ in range(n)]
    steps, ends = 0, begins + seconds
    time.sleep(max(0.0, begins - time.perf_counter()))
    before = time.process_time()
    if isinstance(environments[0], Awaited):
        import uvloop

        async def step_all() -> int:
            return sum(await asyncio.gather(*(step_awaited(env, ends) for env in environments)))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            steps = runner.run(step_all())
    else:
        for env in environments:
            env.reset()
        while time.perf_counter() < ends:
            for env in environments:
                _, _, terminated, truncated, _ = env.step(steps % 2)
                steps += 1
                if terminated or truncated:
                    env.reset()
    return steps, time.process_time() - before


def measure_alone(args: argparse.Namespace) -> None:
    """Print how fast the environments are by themselves, in as many processes, without a sampler."""
    context = multiprocessing.get_context("fork")  # before there are threads
    with ProcessPoolExecutor(args.workers, context) as pool:
        list(pool.map(time.sleep, [0.1] * args.workers))  # so that all have started
        begins, n = time.perf_counter() + 0.5, args.B // args.workers
        each = [pool.submit(step_alone, ENVIRONMENTS[args.env], n, begins, 2.0) for _ in range(args.workers)]
        steps, cpu = (sum(column) for column in zip(*(future.result() for future in each), strict=True))
    print(
        f"{args.env} alone       B={args.B} W={args.workers}: {steps / 2:9,.0f} steps/s, {cpu / steps * 1e6:.1f} us CPU"
    )


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    env_fn = ENVIRONMENTS[args.env]
    served: dict[str, Any] = {"n_workers": args.workers, "device": args.device}
    affinity = None
    if args.affinity != "default":
        affinity = make_affinity(args.workers, alternating=True, apart=args.affinity == "apart")
    kinds: dict[str, tuple[Any, int, dict[str, Any]]] = {
        "serial": (AsyncSerialSampler, 1, {}),
        "cpu": (AsyncCpuSampler, args.workers, {"n_workers": args.workers}),
        "gpu": (AsyncGpuSampler, args.workers, served),
        "dynamic": (AsyncGpuSampler, args.workers, {**served, "lockstep": False}),
        "alternating": (AsyncAlternatingSampler, args.workers, {**served, "affinity": affinity}),
        "no-overlap": (AsyncNoOverlapAlternatingSampler, args.workers, {**served, "affinity": affinity}),
    }
    names = args.samplers.split(",")
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    async with contextlib.AsyncExitStack() as opened:
        samplers, of = {}, {}
        pool = None
        if args.busy:
            spawn = multiprocessing.get_context("spawn")
            pool = opened.enter_context(ProcessPoolExecutor(args.workers, spawn, torch.set_num_threads, (1,)))
        for name in names:
            kind, workers, options = kinds[name]
            n, half = args.B // workers, args.B // 2
            n_acting, acts = {"gpu": (args.B, 1.0), "dynamic": (args.B, 1.0), "serial": (n, 1.0), "cpu": (n, 1.0)}.get(
                name, (half, 2 / workers)
            )
            of[name] = args.env, n, n_acting, acts
            agent = CategoricalPgAgent(Policy)
            options = {"start_method": args.start_method, **options}
            sampler = kind(env_fn, agent=agent, batch_T=args.T, batch_B=args.B, seed=0, **options)
            samplers[name] = await opened.enter_async_context(sampler)
            await rate(sampler, args.seconds)
        for _ in range(args.windows):
            for name, sampler in samplers.items():
                arguments = of[name], kinds[name][1], args.seconds
                measured = await (measure_busy(pool, *arguments) if pool else asyncio.to_thread(measure, *arguments))
                got = await rate(sampler, args.seconds)
                rows[name].append((got, *measured))
                # Until the batch ahead is complete, and the cores are free
                await asyncio.sleep(0.1 + 1.5 * args.T * args.B / got)
    for name in names:
        got, best, _, env, act = (statistics.median(column) for column in zip(*rows[name], strict=True))
        share, strict = (statistics.median(row[0] / row[k] for row in rows[name]) for k in (1, 2))
        ratio = statistics.median(row[0] / first[0] for row, first in zip(rows[name], rows[names[0]], strict=True))
        print(
            f"{args.env} {name:11} T={args.T} B={args.B} W={kinds[name][1]}: {got:9,.0f} steps/s, "
            f"ceiling {best:9,.0f} (env {env * 1e6:.2f} us, act {act * 1e6:.1f} us), "
            f"share {share:.1%}, strict {strict:.1%}, {ratio:.2f} times {names[0]}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=list(ENVIRONMENTS), default="cartpole")
    parser.add_argument("--samplers", default="serial,cpu")
    parser.add_argument("--B", type=int, default=16)
    parser.add_argument("--T", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start-method", default="forkserver")
    parser.add_argument("--affinity", choices=["default", "shared", "apart"], default="default", help="of two groups")
    parser.add_argument("--busy", action="store_true", help="measure a ceiling on all cores of the workers")
    parser.add_argument("--alone", action="store_true", help="also measure the environments without a sampler")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    if arguments.alone:
        measure_alone(arguments)
    asyncio.run(main(arguments))
