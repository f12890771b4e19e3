"""The unit of environments whose methods are coroutines, which are all awaited at the same time.

They run in the loop of a `LoopThread`, each in one task from its factory to its `close`, so that a step creates no
task. The collector's thread starts a step in all of them and wakes once, when the last has answered; each answer is
recorded in the loop, before another task runs. The loop also runs between two steps, so that tasks of an environment
can keep its connection alive.

An environment that raises or is late fails alone: its task is cancelled and closes it, and a late answer is dropped. If
restarts are left, another is built in its place, while the others go on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.coroutine_lives import BEING_BUILT, Lives
from aiosampler.collectors.environment_access import Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import gymnasium as gym

    from aiosampler.collectors.coroutine_environment import Life
    from aiosampler.collectors.step_row import StepRow
    from aiosampler.errors import ProcessFailure
    from aiosampler.interfaces import OnReset, OnStep


class CoroutineEnvironments:
    """An `EnvironmentUnit` of environments whose methods are coroutines.

    Args:
        lives: The environments in their loop; `build` and `settle` build them.
        step_timeout: Seconds that a step, a reset or a call may take; None for no limit.
    """

    pauses = True
    takes_batches = False

    def __init__(self, lives: Lives, step_timeout: float | None) -> None:
        self._lives, self._limit = lives, step_timeout
        self._replaced: list[tuple[int | None, ProcessFailure]] = []  # at the start; not reported to the collector yet
        self._absent: set[int] = set()  # environments that the collector knows to be starting

    def add(self, n: int, phase: Callable[[str], None]) -> None:
        """Build n environments, all at the same time; the unit closes each that is built, even if others fail."""
        self.build(n, phase)
        self.settle(phase)

    def build(self, n: int, phase: Callable[[str], None]) -> None:
        """The first half of `add`: begin to build, in the thread that calls this; `settle` waits for it."""
        self._lives.build(n, phase)

    def settle(self, phase: Callable[[str], None]) -> None:
        """The second half of `add`."""
        self._lives.settle(phase)

    def action_space(self, i: int) -> gym.Space[Any]:
        """The action space of environment i."""
        return self.environment(i).action_space  # type: ignore[no-any-return]

    def environment(self, i: int) -> Any:
        """Environment i."""
        env = self._lives.each[i].env
        assert env is not None
        return env.env

    def check_reset_options(self) -> None:
        """Does nothing: environments with coroutines take options."""

    def reset(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Sequence[Mapping[str, Any] | None],
        on_reset: OnReset,
        *,
        phase: Callable[[str], None] | None = None,
        anew: bool = False,
    ) -> Sequence[int]:
        """Reset environments, all at the same time; at the start, wait until those that fail are replaced."""
        self._lives.options = options
        answered: set[int] = set()

        def tell(i: int, observation: Any, info: Any) -> None:
            on_reset(i, observation, info)
            answered.add(i)

        def begin() -> None:
            for i in self._lives.ready(environments):
                self._lives.ask(i, functools.partial(reset, i))
            if phase is not None:
                self._lives.pending.update(environments)

        async def reset(i: int, life: Life) -> None:
            assert life.env is not None
            life.fresh = None
            observation, info = await life.env.reset(None if seeds is None else seeds[i], options[i])
            if not life.over:
                tell(i, observation, info)

        limit = None if phase is not None else self._limit
        if phase is not None:
            phase(f"resetting {self._lives.name(0, len(self._lives.each) - 1)}")
        self._lives.wait(begin, "resetting", limit, phase, tell if phase is not None else None)
        later = [i for i in environments if i not in answered]
        if anew:
            self._absent.clear()
        self._absent.difference_update(answered)
        self._absent.update(later)
        if phase is not None:
            self._replaced += [(None, error) for _, error in self._lives.losses]
            self._lives.losses.clear()
        return later

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step environments, all at the same time, and record the results; if none is there, wait for a replacement."""
        lives = self._lives

        def begin() -> None:
            stepped = lives.ready(environments) if lives.losses else environments
            lives.pending.update(stepped)  # as `ask` does, for all
            for i in stepped:
                lives.each[i].ask(None)
            nobody_came = not any(lives.each[i].fresh for i in self._absent)
            if not stepped and self._absent and nobody_came and not lives.losses:
                lives.pending.add(BEING_BUILT)

        self._lives.actions, self._lives.record = actions, row.record
        self._lives.wait(begin, f"taking step {row.t} of the batch", self._limit)
        row.ended.sort()  # they have answered in arbitrary order
        self.tell(environments, row)

    def tell(self, environments: Sequence[int], row: StepRow) -> None:
        """Report to `row` which environments failed, and which replacements began, at a step of these environments."""
        if not (self._lives.losses or self._absent or self._replaced):
            return
        row.lost, self._replaced = self._replaced, []
        while self._lives.losses:
            row.lost.append(self._lives.losses.popleft())
        lost = {i for i, _ in row.lost if i is not None}
        for i in sorted(self._absent - lost):
            life = self._lives.each[i]
            if not life.over and life.fresh is not None:
                row.start(i, *life.fresh)
                life.fresh = None
                self._absent.discard(i)
        self._absent.update(lost.intersection(environments))

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Step some environments outside of a batch, all at the same time; skip those that are being replaced."""

        def begin() -> None:
            for i in self._lives.ready(list(actions)):
                self._lives.ask(i, None)

        self._lives.actions, self._lives.record = actions, on_step
        self._lives.wait(begin, "taking a random step", self._limit)

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call some environments, all at the same time; one that is being replaced gives the error why it failed."""
        lives = self._lives
        answers: dict[int, bytes | Exception] = {}
        doing = {Ask.CALL: f"calling {name}()", Ask.GET: f"getting {name}"}.get(ask, f"setting {name}")

        async def call(i: int, arguments: bytes, life: Life) -> None:
            assert life.env is not None
            try:
                answer = await life.env.call(ask, name, arguments, lives.index(i), evaluation=lives.evaluation)
            except Exception as exc:
                answers[i] = self._lives.fault(doing, i, exc)
                return
            if ask is not Ask.GET and not life.over:
                self._lives.told[i].pop((ask, name), None)
                self._lives.told[i][ask, name] = arguments
            answers[i] = answer

        def begin() -> None:
            ready = set(self._lives.ready([i for i, _ in packed]))
            for i, arguments in packed:
                if i in ready:
                    self._lives.ask(i, functools.partial(call, i, arguments))

        self._lives.wait(begin, doing, self._limit)
        lost = dict(self._lives.losses)
        for i, _ in packed:
            if i in answers:
                yield i, answers[i]
            elif i in lost:
                yield i, lost[i]
            else:
                yield i, self._lives.fault(doing, i, RuntimeError("another is being built in its place"))

    def close(self) -> None:
        """Close all environments at the same time, within a time limit, even if one of them raises; idempotent."""
        self._lives.close()
