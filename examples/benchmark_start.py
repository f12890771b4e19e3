"""How soon samplers are ready, how soon they are gone, and what memory their processes take.

    python examples/benchmark_start.py --workers 2,8,32
    python examples/benchmark_start.py --samplers cpu,gpu --start-methods forkserver,spawn

Each row is measured in a program of its own, which imports what it needs first. In it, a sampler of W workers is
started twice: `first` is the time from its constructor to its first batch, with all that anybody but the program has to
import, `second` that of another one of the same program. `closing` is the end of the second; `memory` the proportional
share (PSS) of its processes, without the program's own; `replaced` the time from when a worker is killed to the next
batch that all have collected. Beside them stands Gymnasium's `AsyncVectorEnv` of as many processes, which has neither
agent nor batch: from its constructor to what 32 steps return.
"""

import argparse
import asyncio
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AsyncVectorEnv
from torch import nn

from aiosampler import AsyncAlternatingSampler, AsyncCpuSampler, AsyncGpuSampler, CategoricalPgAgent

T = 32
SAMPLERS: dict[str, Any] = {"cpu": AsyncCpuSampler, "gpu": AsyncGpuSampler, "alternating": AsyncAlternatingSampler}
VECTOR = "AsyncVectorEnv"


class Policy(nn.Module):
    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.logits, self.value = nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.trunk(observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


def memory(pid: int | str = "self") -> float:
    """MiB that the processes below one take, what several share divided among them; on Linux."""
    below = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            share = re.search(r"^Pss: *(\d+) kB", Path(f"/proc/{child}/smaps_rollup").read_text(), re.MULTILINE)
            below += (int(share[1]) / 1024 if share else 0.0) + memory(child)
    return below


def show(took: list[float], closing: float, pss: float, replaced: float | None = None) -> None:
    first, second = took
    last = "" if replaced is None else f"{replaced:8.2f} s"
    print(f"{first:7.2f} s {second:7.2f} s {closing:7.2f} s {pss:7.0f} MiB {last}", flush=True)


def measure_vector(workers: int) -> None:
    make = functools.partial(gym.make, "CartPole-v1", disable_env_checker=True)
    took = []
    for _ in range(2):
        began = time.perf_counter()
        environments = AsyncVectorEnv([make] * workers)
        environments.reset(seed=0)
        for _ in range(T):
            environments.step(environments.action_space.sample())
        took.append(time.perf_counter() - began)
        pss, began = memory(), time.perf_counter()
        environments.close()
        closing = time.perf_counter() - began
    show(took, closing, pss)


async def measure_sampler(name: str, start_method: str, workers: int) -> None:
    took, closing, pss, replaced = [], 0.0, 0.0, 0.0
    options = {"start_method": start_method, "n_workers": workers, "max_worker_restarts": 1}
    for last in (False, True):
        began = time.perf_counter()
        agent = CategoricalPgAgent(Policy)
        sampler = SAMPLERS[name]("CartPole-v1", agent=agent, batch_T=T, batch_B=workers, **options)
        async with sampler:
            await sampler.obtain_samples()
            took.append(time.perf_counter() - began)
            pss = memory()
            if last:
                os.kill(sampler.statistics().worker_pids[-1], signal.SIGKILL)
                began = time.perf_counter()
                while not (await sampler.obtain_samples()).valid.all() or not sampler.statistics().restarts:
                    pass
                replaced = time.perf_counter() - began
            began = time.perf_counter()
        closing = time.perf_counter() - began
    show(took, closing, pss, replaced)


def main(args: argparse.Namespace) -> None:
    if args.row:
        torch.set_num_threads(1)
        name, start_method, workers = args.row
        if name == VECTOR:
            measure_vector(int(workers))
        else:
            asyncio.run(measure_sampler(name, start_method, int(workers)))
        return
    print(f"{'':14} {'':10} workers {'first':>9} {'second':>9} {'closing':>9} {'memory':>11} {'replaced':>10}")
    for workers in args.workers.split(","):
        rows = [(name, method) for name in args.samplers.split(",") for method in args.start_methods.split(",")]
        for name, method in [*rows, (VECTOR, "")]:
            print(f"{name:14} {method:10} {workers:>7}", end=" ", flush=True)
            subprocess.run([sys.executable, os.path.abspath(__file__), "--row", name, method, workers], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default="cpu,gpu", help=f"of {', '.join(SAMPLERS)}")
    parser.add_argument("--start-methods", default="forkserver", help="forkserver, spawn, fork")
    parser.add_argument("--workers", default="2,8,32")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    main(parser.parse_args())
