"""A worker of a dynamic server whose environments have coroutine methods and do not wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiosampler.collectors.columns import Column, ColumnRule, Columns, ColumnUnits, SharedClock
from aiosampler.collectors.coroutine_environments import CoroutineEnvironments
from aiosampler.collectors.served_actions import ColumnActions
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.memory.slot import columns
from aiosampler.signals.arrivals import LoopArrivals
from aiosampler.workers.episodes import pack_episodes
from aiosampler.workers.messages import Loss
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import gymnasium as gym

    from aiosampler.collectors.open_episodes import FinishedEpisode
    from aiosampler.memory.slot import Slot
    from aiosampler.signals.counter import Signal
    from aiosampler.workers.messages import Collect

    #: Pickled episodes and losses of a batch, or the error that ended it.
    Outcome = tuple[bytes, tuple[Loss, ...]] | BaseException


class OwnPaceRunner(Runner):
    """A `Runner` in which each environment has a collector of its own, and arrives at the server by itself.

    Args:
        group: The cells for arrivals of all environments that the server serves.
        ours: Indices of those of this worker among them.
        obs_ready: The signal to the server.
        act_ready: The signal to this worker.
        action_space: The action space of a single environment.
        others: The arguments of `Runner`.
    """

    runs_ahead = True

    def __init__(
        self,
        group: Any,
        ours: range,
        obs_ready: Signal,
        act_ready: Signal,
        *,
        action_space: gym.Space[Any],
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self._action_space = action_space
        self._arrivals = LoopArrivals(group, ours, obs_ready, act_ready, self._event_loop().loop)
        self._clocks = [
            SharedClock(clock[self._share.rank], len(self._share.environments)) for clock in self._views.step_clocks
        ]

    def begin(self, request: Collect, done: Callable[[Outcome], object]) -> None:
        """Let each environment fill its column of a slot, once it has finished earlier requests.

        Args:
            request: The request for the batch.
            done: Called in another thread when all columns are complete, with the outcome.
        """

        def gathered(found: list[FinishedEpisode] | BaseException) -> None:
            outcome: Outcome
            try:
                if isinstance(found, BaseException):
                    outcome = found
                else:
                    lost = self._collector.take_losses()
                    losses = tuple(Loss(loss.error, loss.steps, loss.episodes) for loss in lost)
                    outcome = pack_episodes(found, self._kind), losses
            except BaseException as exc:
                outcome = exc
            done(outcome)

        assert isinstance(self._collector, Columns)
        self._collector.begin(request.slot, self._options.batch.T, gathered)

    def abort(self) -> None:
        """End collecting at the next step; called from any thread."""
        self._arrivals.abort()

    def _make_collector(
        self, environments: range, slots: Sequence[Slot], rule: Any, *, evaluation: bool, before: int = 0
    ) -> Columns:
        care, timeout = self._make_care(), self._options.step_timeout
        contexts = [self._context(b, evaluation, self._generation + before) for b in environments]
        lives = [
            self._make_lives([context], b, evaluation, care, together=environments)
            for b, context in zip(environments, contexts, strict=True)
        ]
        units = [CoroutineEnvironments(each, timeout) for each in lives]
        self._units[evaluation] = every = ColumnUnits(units)
        self._closing.callback(every.close)
        for unit in units:
            unit.build(1, self._phase)
        for unit in units:
            unit.settle(self._phase)

        def column(i: int) -> Column:
            ours = [columns(slot, environments[i], 1) for slot in slots]
            return Column(
                unit=units[i],
                lives=lives[i],
                actions=self._actions(i, ours, first_slot=N_SLOTS if evaluation else 0),
                step_timeout=timeout,
                shared_clocks=[] if evaluation else self._clocks,
                seeds=[contexts[i].seed],
                reset_seed=self._reset_seed(contexts[i : i + 1]) if self._options.seed_every_reset else None,
                first=environments[i],
                slots=ours,
                specs=self._specs,
                rule=ColumnRule(rule, i),
                traj_info=self._traj_info,
                cells=self._views.progress[self._share.rank],
                abort=self._aborts[evaluation],
                evaluation=evaluation,
            )

        made = Columns([column(i) for i in range(len(environments))], environments.start)
        self._closing.callback(made.close)
        return made

    def _actions(self, member: int, slots: Sequence[Slot], first_slot: int) -> ColumnActions:
        progress, loop = self._views.progress[self._share.rank], self._event_loop().loop
        return ColumnActions(self._action_space, slots, progress, self._arrivals, member, loop, first_slot=first_slot)
