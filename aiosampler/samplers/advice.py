"""Advice in the log, once per sampler, if another kind of sampler or number of workers would be faster.

It is estimated from the times that the sampler measured, for one time step of all B environments. The estimates are
cautious: another sampler is named only if it would be a third faster even with an agent that takes as long for a share
of the environments as for all of them.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aiosampler.affinity import usable_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.options import Options
    from aiosampler.samplers.sample_stats import SampleStats
    from aiosampler.samplers.starting import ProcessPlan
    from aiosampler.samplers.statistics import SamplerStatistics
    from aiosampler.samplers.timeline import Timeline

log = logging.getLogger("aiosampler")

SETTLING = 2  # first batches, which are not measured
MEASURED = 6  # batches that are measured
GAIN = 4 / 3  # least speed-up for which another sampler is named
IDLE = 0.5  # least share of their steps in which environments wait, for more workers than CPUs to be named


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of one time step of all environments; medians over batches.

    Attributes:
        cycle: From one time step to the next.
        steps: Sum of the steps of all environments.
        agent: Sum of the agent's steps for all groups or shares of environments.
        idle: Share of `steps` in which the processes that step used no CPU, because environments waited for something;
            None if the system does not tell.
    """

    cycle: float
    steps: float
    agent: float
    idle: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The sampler whose times were measured.

    Attributes:
        sampler: Name of its class.
        serial: Whether one process steps and acts.
        acts_locally: Whether each process that steps has an agent.
        on_cpu: Whether the agent is on the CPU.
        B: Number of environments.
        workers: Number of processes that step.
        groups: Number of groups of workers that take turns.
        cpus: Number of CPUs that the sampler may use.
    """

    sampler: str
    serial: bool
    acts_locally: bool
    on_cpu: bool
    B: int
    workers: int
    groups: int
    cpus: int


def advice(costs: Costs, setting: Setting) -> str | None:
    """One sentence on what would be faster; None if nothing certainly would."""
    B, workers, cpus = setting.B, setting.workers, setting.cpus
    found: list[tuple[float, str]] = []
    if costs.idle is not None and costs.idle >= IDLE:
        more = min(B, math.ceil(cpus / max(1 - costs.idle, 1e-3)))
        more -= more % setting.groups
        if more > workers:
            estimate = max(costs.cycle - costs.steps / workers * (1 - workers / more), costs.agent)
            kind = "AsyncGpuSampler" if setting.serial else setting.sampler
            reason = f"the environments wait for {costs.idle:.0%} of their steps"
            found.append((estimate, f"{reason}, and {kind} with n_workers={more}"))
    elif setting.on_cpu:
        if not setting.serial:
            found.append((costs.steps + costs.agent, "AsyncSerialSampler, without signals between processes,"))
        n = min(B, cpus)
        if n > 1 and not (setting.acts_locally and workers >= n):
            found.append((costs.steps / n + costs.agent, f"AsyncCpuSampler with n_workers={n}"))
    if not found:
        return None
    estimate, what = min(found)
    if estimate * GAIN > costs.cycle:
        return None
    return (
        f"a step of all {B} environments takes {_text(costs.cycle)}, of which the environments need "
        f"{_text(costs.steps)} one after the other, and the agent {_text(costs.agent)}; {what} would take about "
        f"{_text(estimate)}"
    )


def costs(timelines: Sequence[Timeline], seconds: Sequence[float], idle: float | None) -> Costs:
    """The costs, estimated from some batches.

    Args:
        timelines: Timelines of the batches, of T >= 2 time steps.
        seconds: Duration of each batch.
        idle: See `Costs`.
    """
    per_batch = [_times(timeline) for timeline in timelines]
    T = timelines[0].steps.shape[1]
    steps, agent = np.median(np.array(per_batch), axis=0).tolist()
    return Costs(cycle=float(np.median(seconds)) / T, steps=steps, agent=agent, idle=idle)


def _times(timeline: Timeline) -> tuple[float, float]:
    """Seconds per time step: of the steps of all environments, and of the agent."""
    begin, end = timeline.steps[..., 0], timeline.steps[..., 1]
    steps = (end - begin).mean(axis=1).sum() / 1e9
    if timeline.groups:
        infer = timeline.stages[:, 1:, 2] - timeline.stages[:, 1:, 1]
        return float(steps), float(infer.mean(axis=1).sum() / 1e9)
    return float(steps), float((begin[:, 1:] - end[:, :-1]).mean(axis=1).sum() / 1e9)


class Adviser:
    """Measures the first batches of a sampler, and logs one line at INFO if another would be faster.

    Args:
        sampler: Name of the sampler's class.
        options: Its arguments.
        plan: The plan of its processes.
    """

    def __init__(self, sampler: str, options: Options, plan: ProcessPlan) -> None:
        alone, placed = plan.counts.alone, options.affinity.workers
        self._setting = Setting(
            sampler=sampler,
            serial=alone,
            acts_locally=not plan.groups,
            on_cpu=set(options.devices) == {"cpu"},
            B=options.batch_B,
            workers=plan.counts.workers,
            groups=max(1, len(plan.groups)),
            cpus=len({cpu for cpus in placed for cpu in cpus}) if placed else options.cpus or usable_cpu_count(),
        )
        self._timelines: list[Timeline] = []
        self._seconds: list[float] = []
        self._begun: float | None = None  # CPU seconds of the processes that step, when the first batch counted
        self._done = plan.in_process or options.batch_T == 1 or not options.lockstep  # times mean little there

    def batch(self, stats: SampleStats, statistics: Callable[[], SamplerStatistics]) -> None:
        """Measure a batch that is returned to the user.

        Args:
            stats: The stats of the batch.
            statistics: Returns the statistics of the sampler, which contain the process ids.
        """
        if self._done or not log.isEnabledFor(logging.INFO):
            return
        self._timelines.append(stats.timeline)
        self._seconds.append(stats.seconds)
        if len(self._seconds) == SETTLING:
            self._begun = cpu_seconds(_stepping(statistics()))
        if len(self._seconds) < SETTLING + MEASURED:
            return
        self._done = True
        timelines, seconds = self._timelines[SETTLING:], self._seconds[SETTLING:]
        self._timelines.clear()
        if all((timeline.steps > 0).all() for timeline in timelines):
            found = advice(costs(timelines, seconds, self._idle(timelines, _stepping(statistics()))), self._setting)
            if found is not None:
                log.info("%s: %s", self._setting.sampler, found)

    def _idle(self, timelines: Sequence[Timeline], pids: Sequence[int | None]) -> float | None:
        now, begun = cpu_seconds(pids), self._begun
        stepping = sum(float((each.steps[..., 1] - each.steps[..., 0]).sum()) for each in timelines) / 1e9
        # All CPU time of the processes counts as used by steps, so this is the least that environments have waited.
        return None if now is None or begun is None else max(0.0, 1 - (now - begun) / stepping)


def _stepping(statistics: SamplerStatistics) -> Sequence[int | None]:
    return statistics.worker_pids or (statistics.sampler_pid,)


def cpu_seconds(pids: Sequence[int | None]) -> float | None:
    """CPU time that processes have used, in seconds; None if the system does not tell."""
    try:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _text(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
