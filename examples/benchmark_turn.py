"""How long a sampler takes from one batch to the next, by the clocks of its own workers.

    python examples/benchmark_turn.py --samplers cpu,gpu --T 32,256

The turn of a worker lasts from the end of its last step of a batch to the beginning of its first of the next, less what
lies between two steps within a batch: the agent's acting. Nothing about it should grow with T. Windows of all samplers
alternate, so that a machine that changes its speed changes it for all; the median is shown, with the quartiles, beside
the median time of a batch. Whatever else is at work on the same CPUs is a part of it, so it wants a quiet machine. Less
disturbed is the CPU time of a batch, which Linux tells: of this process, the sampler process, and a worker on average.
With ``--T 2`` most of it belongs to the turn.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler import AsyncAlternatingSampler, AsyncCpuSampler, AsyncGpuSampler, CategoricalPgAgent, Timeline

KINDS: dict[str, Any] = {"cpu": AsyncCpuSampler, "gpu": AsyncGpuSampler, "alternating": AsyncAlternatingSampler}


class Policy(nn.Module):
    """Logits and value for vectors."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        assert isinstance(observation_space, gym.spaces.Box)
        assert isinstance(action_space, gym.spaces.Discrete)
        width = observation_space.shape[0]
        self.trunk = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.logits, self.value = nn.Linear(64, int(action_space.n)), nn.Linear(64, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.trunk(observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


def turns(before: Timeline, after: Timeline) -> list[float]:
    """Microseconds of each worker's turn between two batches that follow each other."""
    begin, end = before.steps[..., 0], before.steps[..., 1]
    acting = np.median(begin[:, 1:] - end[:, :-1], axis=1)
    turn = after.steps[:, 0, 0] - end[:, -1] - acting
    return [float(each) for each in turn / 1e3]


def cpu_microseconds(sampler: Any) -> list[float]:
    """CPU time so far of this process, the sampler process and a worker on average; empty where it is not told."""
    seen = sampler.statistics()
    processes = [[os.getpid()], [seen.sampler_pid], seen.worker_pids]
    with contextlib.suppress(OSError):
        return [
            statistics.mean(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e3 for pid in pids)
            for pids in processes
        ]
    return []


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lengths = [int(T) for T in args.T.split(",")]
    measured: dict[tuple[str, int], tuple[list[float], list[float], list[list[float]]]] = {}
    async with contextlib.AsyncExitStack() as opened:
        samplers = {}
        for name in args.samplers.split(","):
            for T in lengths:
                agent = CategoricalPgAgent(Policy)
                arguments = {"batch_T": T, "batch_B": args.B, "n_workers": args.workers, "seed": 0}
                sampler = KINDS[name]("CartPole-v1", agent=agent, start_method=args.start_method, **arguments)
                samplers[name, T] = await opened.enter_async_context(sampler)
                measured[name, T] = [], [], []
        for _ in range(args.windows):
            for key, sampler in samplers.items():
                await sampler.obtain_samples()  # what was collected while another was measured
                last = await sampler.obtain_samples()
                timelines = [last.stats.timeline]
                before = cpu_microseconds(sampler)
                for _ in range(args.batches):  # nothing is computed here, as it would be a part of the turns
                    samples = await sampler.obtain_samples()
                    timelines.append(samples.stats.timeline)
                    measured[key][1].append(samples.stats.seconds * 1e6)
                after = cpu_microseconds(sampler)
                measured[key][0].extend(chain.from_iterable(map(turns, timelines, timelines[1:])))
                measured[key][2].append([(b - a) / args.batches for a, b in zip(before, after, strict=True)])
                await asyncio.sleep(1.5 * samples.stats.seconds)  # until the batch ahead is complete
    for (name, T), (microseconds, seconds, cpu) in measured.items():
        spent = " + ".join(f"{statistics.median(of):,.0f}" for of in zip(*cpu, strict=True))
        low, turn, high = statistics.quantiles(microseconds, n=4)
        print(
            f"{name:11} T={T} B={args.B} W={args.workers}: turn {turn:6,.0f} us (quartiles {low:,.0f} to {high:,.0f}), "
            f"batch {statistics.median(seconds):8,.0f} us{spent and f', CPU {spent} us'}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default="cpu,gpu")
    parser.add_argument("--T", default="32,256", help="lengths of batches, with commas between them")
    parser.add_argument("--B", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20, help="of each window")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--start-method", default="spawn")
    asyncio.run(main(parser.parse_args()))
