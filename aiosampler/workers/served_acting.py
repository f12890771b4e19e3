"""A worker whose environments are acted for by a server: it steps, and meets the server in between."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiosampler.collectors.served_actions import DynamicActions, ServedActions
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.signals.arrivals import WorkerArrivals
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
    rank, group, control = work.share.rank, work.group, views.control
    place = views.rendezvous[group.start : group.stop], rank - group.start, obs_ready, act_ready
    acting: ServedActing
    if work.options.lockstep:
        rendezvous = WorkerSide(*place, spin=work.spin)
        acting, aborts = ServedActing(work, views, rendezvous), (rendezvous.leave, rendezvous.leave)
    else:
        acting = DynamicActing(work, views, WorkerArrivals(*place, spin=work.spin))
        aborts = control.abort_batch, control.abort_evaluation
    return Runner(
        options=work.options,
        specs=work.start.specs,
        views=views,
        share=work.share,
        eval_slot=views.evaluation_slot or {},
        aborts=aborts,
        acting=acting,
        phase=phase,
        vector=work.probed.vector,
        coroutines=work.probed.coroutines,
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


class DynamicActing(ServedActing):
    """The same for a server that acts for each worker as it arrives.

    Args:
        work: What there is to do.
        views: Of the arena.
        arrivals: Where this worker arrives.
    """

    def __init__(self, work: Work, views: ArenaViews, arrivals: WorkerArrivals) -> None:
        super().__init__(work, views, arrivals)
        self._arrivals = arrivals

    def source(self, slots: Columns, *, batches: bool) -> ActionSource:
        """Make the source of actions for some columns of some slots."""
        first_slot = 0 if len(slots) == N_SLOTS else N_SLOTS  # that of evaluation is counted behind those of batches
        return DynamicActions(
            self._action_space, slots, self._progress, self._arrivals, batches=batches, first_slot=first_slot
        )
