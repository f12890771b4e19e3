"""Acting by an action server in another process, which the worker meets at a rendezvous at each step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.served_actions import DynamicActions, ServedActions
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.signals.arrivals import WorkerArrivals
from aiosampler.signals.rendezvous import WorkerSide
from aiosampler.workers.own_pace import OwnPaceRunner
from aiosampler.workers.random_streams import RandomStreams
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.interfaces import ActionSource
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.messages import Collect, Evaluate, Work
    from aiosampler.workers.runner import Columns


def served_runner(
    work: Work, views: ArenaViews, obs_ready: Signal, act_ready: Signal, phase: Callable[[str], None]
) -> Runner:
    """Make the runner that steps a share of the environments with the actions of a server.

    Args:
        work: The work of this worker.
        views: Views of the arena.
        obs_ready: The signal to the server, shared by the group.
        act_ready: The signal to this worker, which the server posts if the worker sleeps.
        phase: Called with the phases of the start.
    """
    rank, group, control = work.share.rank, work.group, views.control
    members = len(views.rendezvous) // work.options.worker_count
    cells = views.rendezvous[group.start * members : group.stop * members : 1 if work.probed.coroutines else members]
    common: dict[str, Any] = {
        "options": work.options,
        "specs": work.start.specs,
        "views": views,
        "share": work.share,
        "eval_slot": views.evaluation_slot or {},
        "phase": phase,
        "vector": work.probed.vector,
        "coroutines": work.probed.coroutines,
    }
    if work.options.lockstep:
        rendezvous = WorkerSide(cells, rank - group.start, obs_ready, act_ready, spin=work.spin)
        served = ServedActing(work, views, rendezvous)
        return Runner(acting=served, aborts=(rendezvous.leave, rendezvous.leave), **common)
    aborts = control.abort_batch, control.abort_evaluation
    if work.probed.coroutines:
        ours = range((rank - group.start) * members, (rank - group.start + 1) * members)
        common |= {"acting": OwnPaceActing(work, views), "aborts": aborts, "action_space": work.probed.spaces.action}
        return OwnPaceRunner(cells, ours, obs_ready, act_ready, **common)
    arrivals = WorkerArrivals(cells, rank - group.start, obs_ready, act_ready, spin=work.spin)
    return Runner(acting=DynamicActing(work, views, arrivals), aborts=aborts, **common)


_NOTHING = contextlib.nullcontext()


class OwnPaceActing:
    """The contexts of a worker whose environments arrive at the server one by one.

    Args:
        work: The work of this worker.
        views: Views of the arena.
    """

    def __init__(self, work: Work, views: ArenaViews) -> None:
        self._action_space, self._progress = work.probed.spaces.action, views.progress[work.share.rank]
        part, share = work.options.part, work.share
        first = part.first(work.options.batch_B) + share.environments.start
        self._random = RandomStreams(work.options.seed, first, part.restarts + share.generation, acts=False)

    def starting(self) -> contextlib.nullcontext[None]:
        """A context around building and resetting the environments, which needs no server."""
        return contextlib.nullcontext()

    def evaluating(self, request: Evaluate) -> contextlib.AbstractContextManager[None]:
        """A context around an evaluation, which draws from random streams of its own."""
        return self._random.evaluation()

    def calling(self, *, evaluation: bool) -> contextlib.AbstractContextManager[None]:
        """A context around calls of environments; those of evaluation draw from its random streams."""
        return self._random.evaluation() if evaluation else contextlib.nullcontext()


class ServedActing(OwnPaceActing):
    """Begins each batch and each evaluation at the rendezvous with the server.

    Args:
        work: The work of this worker.
        views: Views of the arena.
        rendezvous: This worker's side of the rendezvous.
    """

    def __init__(self, work: Work, views: ArenaViews, rendezvous: WorkerSide) -> None:
        super().__init__(work, views)
        self._rendezvous = rendezvous

    def source(self, slots: Columns, *, batches: bool) -> ActionSource:
        """Make the source of actions for some columns of some slots."""
        return ServedActions(self._action_space, slots, self._progress, self._rendezvous, batches=batches)

    def collecting(self, request: Collect) -> contextlib.AbstractContextManager[None]:
        """A context around filling a slot."""
        if request.anew:
            self._rendezvous.begin()
        else:
            self._rendezvous.go_on()
        return _NOTHING

    def evaluating(self, request: Evaluate) -> contextlib.AbstractContextManager[None]:
        """A context around an evaluation, which draws from random streams of its own."""
        self._rendezvous.begin()
        return super().evaluating(request)

    def abort(self) -> None:
        """End collecting at the next step, also while waiting for the server; callable from any thread."""
        self._rendezvous.abort()


class DynamicActing(ServedActing):
    """The same for a server that acts for each worker when it arrives.

    Args:
        work: The work of this worker.
        views: Views of the arena.
        arrivals: This worker's side of the arrivals.
    """

    def __init__(self, work: Work, views: ArenaViews, arrivals: WorkerArrivals) -> None:
        super().__init__(work, views, arrivals)
        self._arrivals = arrivals

    def source(self, slots: Columns, *, batches: bool) -> ActionSource:
        """Make the source of actions for some columns of some slots."""
        first_slot = 0 if len(slots) == N_SLOTS else N_SLOTS  # that of evaluation follows those of batches
        return DynamicActions(
            self._action_space, slots, self._progress, self._arrivals, batches=batches, first_slot=first_slot
        )
