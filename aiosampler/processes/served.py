"""What a worker of an action server runs: environments alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.collectors.served import ServedActions
from aiosampler.processes.arena_map import eval_slot_arrays
from aiosampler.processes.cargo import Cargo
from aiosampler.processes.random_streams import RandomStreams
from aiosampler.processes.runner import Runner
from aiosampler.signals.meeting import Attendance

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.processes.messages import Collect, Evaluate, Work
    from aiosampler.signals.counter import Signal
    from aiosampler.specs.trees import Tree


class ServedRunner:
    """Steps a share of the environments with the actions of a server.

    Args:
        work: What there is to do.
        arrays: Views of the arena.
        bell: Of the group.
        wake: Posted by the server when this worker is asleep.
        phase: Told what is being done.
    """

    def __init__(self, work: Work, arrays: Tree, bell: Signal, wake: Signal, phase: Callable[[str], None]) -> None:
        rank, group = work.share.rank, work.group
        self._attendance = attendance = Attendance(
            arrays["dense"]["meetings"][group.start : group.stop], rank - group.start, bell, wake, spin=work.spin
        )
        cells = arrays["dense"]["progress"][rank]
        self._random = RandomStreams(work.job.seed, rank, work.share.generation)
        self._runner = Runner(
            cargo=Cargo(work.job),
            specs=work.start.specs,
            arrays=arrays,
            share=work.share,
            eval_slot=eval_slot_arrays(arrays) if work.share.evaluation else {},
            aborts=(attendance.leave, attendance.leave),
            source=lambda slots: ServedActions(work.probed.spaces.action, slots, cells, attendance),
            phase=phase,
        )

    def start(self) -> None:
        """Build all environments and reset them."""
        self._runner.start()

    def collect(self, request: Collect) -> bytes:
        """Fill this share of a slot; return the episodes that ended, packed."""
        self._attendance.begin()
        return self._runner.collect(request.slot)

    def evaluate(self, request: Evaluate) -> bytes:
        """Run new episodes until every quota is met, or the steps are used up; return them, packed."""
        self._attendance.begin()
        with self._random.evaluation():
            return self._runner.evaluate()

    def abort(self) -> None:
        """End what is being collected at its next step, also if it waits for the server; from any thread."""
        self._attendance.abort()

    def close(self) -> None:
        """Close every environment that was built; idempotent."""
        self._runner.close()
