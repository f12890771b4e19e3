"""A worker whose environments are acted for by a server: it steps, and meets the server in between."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiosampler.collectors.served_actions import ServedActions
from aiosampler.signals.rendezvous import WorkerSide
from aiosampler.workers.random_streams import RandomStreams
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiosampler.interfaces import ActionSource
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.messages import Collect, Evaluate, Work
    from aiosampler.workers.runner import Columns


def served_runner(
    work: Work, views: ArenaViews, obs_ready: Signal, act_ready: Signal, phase: Callable[[str], None]
) -> Runner:
    """Make what steps a share of the environments with the actions of a server.

    Args:
        work: What there is to do.
        views: Of the arena.
        obs_ready: Of the group.
        act_ready: Posted by the server when this worker is asleep.
        phase: Told what is being done.
    """
    rank, group = work.share.rank, work.group
    rendezvous = WorkerSide(
        views.rendezvous[group.start : group.stop],
        rank - group.start,
        obs_ready,
        act_ready,
        spin=work.spin,
    )
    return Runner(
        options=work.options,
        specs=work.start.specs,
        views=views,
        share=work.share,
        eval_slot=views.evaluation_slot or {},
        aborts=(rendezvous.leave, rendezvous.leave),
        acting=ServedActing(work, views, rendezvous),
        phase=phase,
        vector=work.probed.vector,
    )


class ServedActing:
    """Begins each batch and each evaluation at the rendezvous with the server.

    Args:
        work: What there is to do.
        views: Of the arena.
        rendezvous: This worker's side of it.
    """

    def __init__(self, work: Work, views: ArenaViews, rendezvous: WorkerSide) -> None:
        self._rendezvous, self._action_space = rendezvous, work.probed.spaces.action
        self._progress = views.progress[work.share.rank]
        self._random = RandomStreams(work.options.seed, work.share.rank, work.share.generation, acts=False)

    def source(self, slots: Columns, *, batches: bool) -> ActionSource:
        """Make the source of actions for some columns of some slots."""
        return ServedActions(self._action_space, slots, self._progress, self._rendezvous, batches=batches)

    def starting(self) -> contextlib.nullcontext[None]:
        """Around building and resetting the environments: the server is not met."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def collecting(self, request: Collect) -> Iterator[None]:
        """Around filling a slot."""
        self._rendezvous.begin()
        yield

    @contextlib.contextmanager
    def evaluating(self, request: Evaluate) -> Iterator[None]:
        """Around an evaluation, which draws its noise from a stream of its own."""
        self._rendezvous.begin()
        with self._random.evaluation():
            yield

    def calling(self, *, evaluation: bool) -> contextlib.AbstractContextManager[None]:
        """Around calls of environments: those of evaluation draw their noise from its stream."""
        return self._random.evaluation() if evaluation else contextlib.nullcontext()

    def abort(self) -> None:
        """End what is being collected at its next step, also if it waits for the server; from any thread."""
        self._rendezvous.abort()
