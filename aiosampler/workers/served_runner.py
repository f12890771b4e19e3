"""What a worker of an action server runs: environments alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.collectors.served_actions import ServedActions
from aiosampler.signals.rendezvous import WorkerSide
from aiosampler.workers.payload import Payload
from aiosampler.workers.random_streams import RandomStreams
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.messages import Collect, Evaluate, Work


class ServedRunner:
    """Steps a share of the environments with the actions of a server.

    Args:
        work: What there is to do.
        views: Of the arena.
        obs_ready: Of the group.
        act_ready: Posted by the server when this worker is asleep.
        phase: Told what is being done.
    """

    def __init__(
        self, work: Work, views: ArenaViews, obs_ready: Signal, act_ready: Signal, phase: Callable[[str], None]
    ) -> None:
        rank, group = work.share.rank, work.group
        self._rendezvous = rendezvous = WorkerSide(
            views.rendezvous[group.start : group.stop],
            rank - group.start,
            obs_ready,
            act_ready,
            spin=work.spin,
        )
        cells = views.progress[rank]
        self._random = RandomStreams(work.job.seed, rank, work.share.generation)
        self._runner = Runner(
            payload=Payload(work.job),
            specs=work.start.specs,
            views=views,
            share=work.share,
            eval_slot=views.evaluation_slot or {},
            aborts=(rendezvous.leave, rendezvous.leave),
            source=lambda slots: ServedActions(work.probed.spaces.action, slots, cells, rendezvous),
            phase=phase,
        )

    def start(self) -> None:
        """Build all environments and reset them."""
        self._runner.start()

    def collect(self, request: Collect) -> bytes:
        """Fill this share of a slot; return the episodes that ended, packed."""
        self._rendezvous.begin()
        return self._runner.collect(request.slot)

    def evaluate(self, request: Evaluate) -> bytes:
        """Run new episodes until every quota is met, or the steps are used up; return them, packed."""
        self._rendezvous.begin()
        with self._random.evaluation():
            return self._runner.evaluate()

    def abort(self) -> None:
        """End what is being collected at its next step, also if it waits for the server; from any thread."""
        self._rendezvous.abort()

    def close(self) -> None:
        """Close every environment that was built; idempotent."""
        self._runner.close()
