"""What the three samplers with an action server do with their time, in numbers and in a picture.

    python examples/overlap.py --picture overlap.png

Environments that sleep in `step` and an agent that sleeps in its forward pass stand for slow simulators and a busy
device, so the result does not depend on the number of cores. For each sampler, a trace goes to overlap_<name>.json,
to be opened in Perfetto (https://ui.perfetto.dev).
"""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from aiosampler import (
    AgentInputs,
    AgentStep,
    AsyncAlternatingSampler,
    AsyncGpuSampler,
    AsyncGpuSamplerBase,
    AsyncNoOverlapAlternatingSampler,
    RandomAgent,
    Timeline,
)

SAMPLERS: dict[str, tuple[type[AsyncGpuSamplerBase], int]] = {
    "plain": (AsyncGpuSampler, 4),
    "alternating": (AsyncAlternatingSampler, 8),
    "no overlap": (AsyncNoOverlapAlternatingSampler, 8),
}


class SleepingEnv(gym.Env[Any, Any]):
    def __init__(self, seconds: float) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.seconds = seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        return np.zeros(4, np.float32), 1.0, False, False, {}


class SleepingAgent(RandomAgent):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def step(self, inputs: AgentInputs, state: Any) -> AgentStep:
        time.sleep(self.seconds)
        return super().step(inputs, state)


async def measure(name: str, args: argparse.Namespace) -> tuple[float, Timeline]:
    kind, n_workers = SAMPLERS[name]
    sampler = kind(
        SleepingEnv,
        env_kwargs={"seconds": args.env},
        agent=SleepingAgent(args.agent),
        batch_T=args.T,
        batch_B=16,
        n_workers=n_workers,
    )
    async with sampler:
        await sampler.obtain_samples()
        began = time.perf_counter()
        for _ in range(args.batches):
            samples = await sampler.obtain_samples()
        seconds = time.perf_counter() - began
        sampler.trace(f"overlap_{name.replace(' ', '_')}.json")
        return args.batches * args.T * 16 / seconds, samples.stats.timeline


def draw(timelines: dict[str, Timeline], seconds: float, path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(timelines), sharex=True, figsize=(9, 5), layout="constrained")
    for axis, (name, timeline) in zip(axes, timelines.items(), strict=True):
        origin = timeline.stages[timeline.stages > 0].min()
        events = [event for event in timeline.events() if event["ph"] == "X"]
        lines = {event["tid"]: event["args"]["name"] for event in timeline.events() if event["ph"] == "M"}
        for event in events:
            begin, line = event["ts"] / 1e3 - origin / 1e6, event["tid"]
            if begin < seconds * 1e3 and event["name"] in ("step", "infer"):
                colour = ("tab:blue", "tab:orange")[event["args"]["group"]]
                axis.broken_barh(
                    [(begin, event["dur"] / 1e3)], (line - 0.4, 0.8), color=colour,
                    alpha=1.0 if event["name"] == "infer" else 0.5,
                )  # fmt: skip
        axis.set_yticks(list(lines), list(lines.values()), fontsize=6)
        axis.set_title(name, fontsize=9, loc="left")
        axis.invert_yaxis()
        axis.set_xlim(0, seconds * 1e3)
    axes[-1].set_xlabel("milliseconds")
    figure.savefig(path, dpi=110)


async def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    timelines, plain = {}, 0.0
    for name in SAMPLERS:
        rate, timelines[name] = await measure(name, args)
        plain = plain or rate
        each = 16 / rate * 1e3
        print(f"{name:12} {rate:7,.0f} steps/s, {each:5.2f} ms for a step of all, {rate / plain:.2f} times plain")
    if args.picture:
        draw(timelines, 6 * (args.agent + args.env * 2), args.picture)
        print(f"picture: {args.picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=float, default=0.002, help="seconds of an environment's step")
    parser.add_argument("--agent", type=float, default=0.004, help="seconds of a forward pass")
    parser.add_argument("--T", type=int, default=50)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--picture", help="file for the picture")
    args = parser.parse_args()
    if args.picture:
        Path(args.picture).touch()  # or it would be told only in the end that it cannot be written
    asyncio.run(main(args))
