"""The times at which each process worked on a batch, and their trace for a viewer."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.errors import SamplerError
from aiosampler.memory.clocks import STAGE_TIMES, STEP_TIMES
from aiosampler.samplers.beside_loop import beside_loop

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from aiosampler.memory.call_log import Serving

TRACED_BATCHES = 16
_SPANS = ("copy in", "infer", "copy out", "release")  # from one of STAGE_TIMES to the next


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Times in nanoseconds of the monotonic clock; zero for steps that were not taken, as all environments waited.

    Attributes:
        steps: int64 ``[W, T, 2]``: when each worker began and ended each step of its environments.
        stages: int64 ``[G, T, 5]``: for each step of each group that an action server serves, when its last worker had
            arrived, its inputs were on the device, the agent had answered, the answer was in the batch, and the workers
            were released.
        groups: For each group, the ranks of its workers.
        serving: The calls of servers without lockstep; None where there was no batch.
    """

    steps: np.ndarray[Any, np.dtype[np.int64]]
    stages: np.ndarray[Any, np.dtype[np.int64]]
    groups: Sequence[range] = ()
    serving: Serving | None = None

    def stage_seconds(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Durations of the stages of a batch in seconds: for each, an array with the values of all steps.

        Returns:
            ``step`` of each worker's environments. Of samplers without an action server also ``act``: what was between
            two steps of a worker, which is its agent and what is recorded. Of an action server, for each step of each
            group but the first: ``wait`` for the workers, ``copy in`` to the device, ``infer``, ``copy out``,
            ``release`` of the workers, and ``loop``: all from the last worker's arrival to the release, less the
            agent's own time; with ``lockstep=False`` only ``infer``, of each call.
        """
        began, ended = self.steps[..., 0], self.steps[..., 1]
        stepped = {"step": (ended - began)[began > 0] / 1e9}
        if self.serving is not None and len(self.serving.calls):
            calls = self.serving.calls[self.serving.calls[..., 0] > 0]
            return {**stepped, "infer": (calls[:, 1] - calls[:, 0]) / 1e9}
        if not self.groups:
            between = (began[:, 1:] > 0) & (ended[:, :-1] > 0)
            return {**stepped, "act": (began[:, 1:] - ended[:, :-1])[between] / 1e9}
        stages = self.stages[:, 1:]
        served = (stages[..., -1] > 0) & (self.stages[:, :-1, -1] > 0)
        last_end = np.array([self.steps[ranks.start : ranks.stop, :-1, 1].max(axis=0) for ranks in self.groups])
        spans = {name: stages[..., i + 1] - stages[..., i] for i, name in enumerate(_SPANS)}
        times = {
            "wait": stages[..., 0] - self.stages[:, :-1, -1],
            **spans,
            "loop": stages[..., -1] - last_end.reshape(served.shape) - spans["infer"],
        }
        return stepped | {name: span[served] / 1e9 for name, span in times.items()}

    def events(self) -> Iterator[dict[str, Any]]:
        """Events of the Chrome trace format, with a row for each worker and for each group of an action server."""
        group_of = {rank: g for g, ranks in enumerate(self.groups) for rank in ranks}
        lines: list[tuple[str, int | None, tuple[str, ...], Any]] = [
            *((f"worker {rank}", group_of.get(rank), ("step",), times) for rank, times in enumerate(self.steps)),
            *((f"pipeline {g}", g, _SPANS, times) for g, times in enumerate(self.stages)),
        ]
        for line, (name, group, spans, times) in enumerate(lines):
            yield {"name": "thread_name", "ph": "M", "pid": 0, "tid": line, "args": {"name": name}}
            for t, row in enumerate(times.tolist()):
                for span, begin, end in zip(spans, row[:-1], row[1:], strict=True):
                    if begin > 0 and end > begin:
                        yield {
                            "name": span, "ph": "X", "ts": begin / 1e3, "dur": (end - begin) / 1e3, "pid": 0,
                            "tid": line, "args": {"t": t, "group": group},
                        }  # fmt: skip
        for server, calls in enumerate(() if self.serving is None else self.serving.calls):
            line = len(lines) + server
            yield {"name": "thread_name", "ph": "M", "pid": 0, "tid": line, "args": {"name": f"server {server}"}}
            for begin, end, n, waited in calls[calls[:, 0] > 0].tolist():
                yield {
                    "name": "infer", "ph": "X", "ts": begin / 1e3, "dur": (end - begin) / 1e3, "pid": 0, "tid": line,
                    "args": {"environments": n, "waited_us": waited / 1e3},
                }  # fmt: skip


def empty_timeline() -> Timeline:
    """A timeline without steps, for a batch that was not collected."""
    return Timeline(np.zeros((0, 0, len(STEP_TIMES)), np.int64), np.zeros((0, 0, len(STAGE_TIMES)), np.int64))


def write_trace(path: str | Path, timelines: Iterable[Timeline]) -> None:
    """Write timelines as a Chrome trace, for ``chrome://tracing``, Perfetto or Speedscope.

    Args:
        path: Path of the JSON file.
        timelines: Timelines of batches of one sampler.
    """
    events = [event for timeline in timelines for event in timeline.events()]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)


class Tracing:
    """The part of a sampler that writes traces of its batches."""

    _timelines: deque[Timeline]

    def trace(self, path: str | Path) -> None:
        """Write a trace of the last 16 batches: when each worker stepped, and when each group was served.

        The processes record these times anyway, so a trace costs nothing before this call. `atrace` does the same
        without blocking the event loop.

        Args:
            path: Path of the JSON file in the Chrome trace format, for Perfetto or ``chrome://tracing``.

        Raises:
            SamplerError: No batch was obtained yet.
        """
        write_trace(path, self._traced())

    async def atrace(self, path: str | Path) -> None:
        """`trace`, with the writing in a thread.

        Args:
            path: Path of the file.

        Raises:
            SamplerError: No batch was obtained yet.
        """
        await beside_loop(functools.partial(write_trace, path, self._traced()))

    def _traced(self) -> tuple[Timeline, ...]:
        if not self._timelines:
            raise SamplerError("trace() shows the batches that were obtained last, and there was none yet")
        return tuple(self._timelines)
