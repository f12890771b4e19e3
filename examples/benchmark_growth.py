"""How the cost of a step grows with workers, environments, time steps and the size of observations: four plots.

    python examples/benchmark_growth.py --picture growth.png

Environments and the agent do next to nothing, so what is measured is the sampler: seconds of a batch, divided by the
steps of environments in it. One number is changed at a time, the others stay at W = 2, B = 64, T = 32 and 4 bytes, but
for observations, of which 4 environments have 16 steps. Each point is a sampler of its own, measured for `--seconds`
after as long to settle; all points are measured `--rounds` times, one round after the other, and medians are drawn.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from aiosampler import Agent, AgentInputs, AgentStep, AsyncCpuSampler, AsyncGpuSampler, AsyncSerialSampler, Spaces
from aiosampler.commands.bench import rate

KINDS: dict[str, Any] = {"serial": AsyncSerialSampler, "cpu": AsyncCpuSampler, "gpu": AsyncGpuSampler}


class Still(gym.Env[Any, Any]):
    """Shows the same `size` bytes for ever."""

    def __init__(self, size: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (size,), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self._observation, self._info = np.zeros(size, np.uint8), dict[str, Any]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._observation, self._info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._observation, 0.0, False, False, self._info


class Idle(Agent):
    """Chooses 0, whatever it sees."""

    def initialize(self, spaces: Spaces) -> None:
        self._zeros: dict[int, torch.Tensor] = {}

    def step(self, inputs: AgentInputs, state: Any) -> AgentStep:
        n = len(inputs.prev_reward)
        if n not in self._zeros:
            self._zeros[n] = torch.zeros(n, dtype=torch.int64)
        return AgentStep(self._zeros[n])


class Point(NamedTuple):
    """One sampler: what is changed, and all numbers."""

    changed: str
    W: int = 2
    B: int = 64
    T: int = 32
    size: int = 4

    @property
    def at(self) -> int:
        value: int = getattr(self, self.changed)
        return value


AXES = {"W": "workers", "B": "environments", "T": "time steps of a batch", "size": "bytes of an observation"}


def points() -> Iterator[Point]:
    for W in (1, 2, 4, 8, 16, 32, 64):
        yield Point("W", W=W)
    for B in (1, 4, 16, 64, 256, 1024, 4096):
        yield Point("B", B=B, W=min(B, 2))
    for T in (1, 2, 8, 32, 128, 512):
        yield Point("T", T=T)
    for size in (4, 1 << 8, 1 << 12, 1 << 16, 1 << 18, 1 << 20):
        yield Point("size", size=size, B=4, T=16)


async def measure(kind: str, point: Point, seconds: float) -> float:
    """Steps of environments in a second."""
    workers = {} if kind == "serial" else {"n_workers": point.W}
    kwargs = {"size": point.size}
    sampler = KINDS[kind](Still, env_kwargs=kwargs, agent=Idle(), batch_T=point.T, batch_B=point.B, seed=0, **workers)
    async with sampler:
        await rate(sampler, seconds)
        return await rate(sampler, seconds)


def draw(path: str, found: dict[str, dict[Point, list[float]]]) -> None:
    drawn = [changed for changed in AXES if any(point.changed == changed for of in found.values() for point in of)]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    plots = figure.subplots((len(drawn) + 1) // 2, min(2, len(drawn)), squeeze=False).flat
    for changed, axes in zip(drawn, plots, strict=False):
        for kind, rates in found.items():
            there = [point for point in rates if point.changed == changed]
            if there:
                middle = [1e6 / statistics.median(rates[point]) for point in there]
                axes.plot([point.at for point in there], middle, "o-", label=kind, markersize=4)
        axes.set(yscale="log", xlabel=f"{changed}: {AXES[changed]}", ylabel="µs per environment step")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.suptitle("What a step costs beside environment and agent")
    figure.savefig(path)


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[Point, list[float]]] = {kind: {} for kind in args.samplers.split(",")}
    wanted = [
        (kind, point)
        for _ in range(args.rounds)
        for point in points()
        for kind in found
        if (kind != "serial" or point.changed != "W") and point.changed in args.axes and point.at <= args.most
    ]
    began = time.perf_counter()
    for kind, point in tqdm(wanted, unit=" samplers"):
        found[kind].setdefault(point, []).append(await measure(kind, point, args.seconds))
    for kind, rates in found.items():
        for changed, text in AXES.items():
            there = {point.at: 1e6 / statistics.median(rates[point]) for point in rates if point.changed == changed}
            if there:
                print(f"{kind:6} {text:23} " + "  ".join(f"{at}: {us:.3g}" for at, us in there.items()))
    print(f"microseconds of an environment step; took {time.perf_counter() - began:.0f} s")
    if args.json:
        rows = [{"kind": kind, **point._asdict(), "rates": r} for kind, of in found.items() for point, r in of.items()]
        await asyncio.to_thread(Path(args.json).write_text, json.dumps(rows))
    if args.picture:
        draw(args.picture, found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default="serial,cpu,gpu", help="of serial, cpu and gpu")
    parser.add_argument("--axes", default="W,B,T,size", type=lambda names: names.split(","), help="of %(default)s")
    parser.add_argument("--most", type=int, default=1 << 20, metavar="N", help="leave out larger numbers")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", metavar="PATH", help="write the rates of all rounds there")
    parser.add_argument("--picture", metavar="PATH")
    args = parser.parse_args()
    for path in filter(None, (args.json, args.picture)):
        Path(path).touch()  # or it would be told only in the end that it cannot be written
    asyncio.run(main(args))
