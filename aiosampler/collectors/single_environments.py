"""The unit of single environments, which are stepped one after the other."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.environment_access import Ask, call_environment
from aiosampler.collectors.environment_checks import api_error, check_reset
from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.recording import as_flag, as_reward
from aiosampler.memory.progress import AT, TICK

if TYPE_CHECKING:
    import gymnasium as gym

    from aiosampler.collectors.step_row import StepRow
    from aiosampler.interfaces import OnReset, OnStep


class SingleEnvironments:
    """An `EnvironmentUnit` of Gymnasium's single environments.

    What an environment returns is recorded before another one is called: many return the same buffer each time, and
    the environments of a process may share it.

    Args:
        first: Global index of the first environment; `add` takes them in order.
        evaluation: Whether these are evaluation environments.
        cells: Progress cells of this process.
    """

    pauses = True
    takes_batches = False

    def __init__(self, first: int, cells: Any, *, evaluation: bool) -> None:
        self._first, self._evaluation, self._cells = first, evaluation, memoryview(cells)
        self._environments: list[gym.Env[Any, Any]] = []
        self._closing = contextlib.ExitStack()
        self._stepped: Sequence[int] | None = None  # the list of environments that `_steps` was made for
        self._steps: list[tuple[int, int, Callable[[Any], Any]]] = []  # column, global index, step

    def add(self, env: "gym.Env[Any, Any]") -> None:
        """Add the next environment; from now on the unit closes it."""
        b = self._first + len(self._environments)
        self._environments.append(env)
        self._closing.callback(self._close, env, b)

    def action_space(self, i: int) -> "gym.Space[Any]":
        """The action space of environment i."""
        return self._environments[i].action_space

    def environment(self, i: int) -> "gym.Env[Any, Any]":
        """Environment i."""
        return self._environments[i]

    def check_reset_options(self) -> None:
        """Does nothing: single environments take options."""

    def reset(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Sequence[Mapping[str, Any] | None],
        on_reset: "OnReset",
        *,
        phase: Callable[[str], None] | None = None,
        anew: bool = False,
    ) -> Sequence[int]:
        """Reset environments, one after the other; all of them answer at once."""
        cells = self._cells
        for i in environments:
            b = self._first + i
            if phase is not None:
                phase(f"resetting environment {b}")
            cells[TICK] += 1
            cells[AT] = b
            given = options[i]
            named = {} if given is None else {"options": dict(given)}  # a copy, since it may remove items
            try:
                result = self._environments[i].reset(seed=None if seeds is None else seeds[i], **named)
                on_reset(i, *check_reset(result))
            except EnvironmentFault:
                raise
            except BaseException as exc:
                raise EnvironmentFault("resetting", b, self._evaluation) from api_error(exc)
        return ()

    def step(self, actions: Sequence[Any], environments: Sequence[int], row: "StepRow") -> None:
        """Step environments, one after the other, and record what they return, as `StepRow.record` does."""
        if environments is not self._stepped:
            self._stepped = environments
            self._steps = [(i, self._first + i, self._environments[i].step) for i in environments]
        cells, write, write_info, each_step = self._cells, row.write, row.write_info, row.each_step
        target, vectors, places, rewards = row.observation, row.vectors, row.places, row.rewards
        b = self._first
        try:
            for i, b, step in self._steps:
                cells[AT] = b
                observation, reward, terminated, truncated, info = step(actions[i])
                if vectors is not None:
                    try:
                        vectors[places[i]] = observation
                    except (ValueError, TypeError):  # not exactly the shape and dtype of the space
                        write(target, i, observation)
                        vectors = None  # later ones will not be either
                        row.look_closer()
                else:
                    write(target, i, observation)
                try:
                    rewards[i] = reward
                except Exception:  # not a plain number: convert or refuse it
                    rewards[i] = as_reward(reward)
                if write_info is not None:
                    write_info(row.infos, i, info)
                if terminated is not False or truncated is not False:
                    terminated = as_flag("terminated", terminated)
                    truncated = as_flag("truncated", truncated)
                if each_step:
                    row.count(i, terminated, truncated, info)
                if terminated or truncated:
                    row.end(i, observation, terminated, truncated)
        except EnvironmentFault:
            raise
        except BaseException as exc:
            raise EnvironmentFault(f"taking step {row.t} of the batch", b, self._evaluation) from api_error(exc)

    def step_apart(self, actions: Mapping[int, Any], on_step: "OnStep") -> None:
        """Step some environments outside of batches."""
        for i, action in actions.items():
            self._cells[AT] = b = self._first + i
            with fault_of("taking a random step", b, self._evaluation):
                observation, reward, terminated, truncated, info = self._environments[i].step(action)
            on_step(i, observation, reward, terminated, truncated, info)

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call each of some environments, also if another one raises."""
        for i, arguments in packed:
            self._cells[TICK] += 1
            self._cells[AT] = b = self._first + i
            try:
                env = self._environments[i]
                yield i, call_environment(env, ask, name, arguments, b, evaluation=self._evaluation)
            except Exception as exc:
                yield i, exc

    def close(self) -> None:
        """Close all environments, also if one of them raises; idempotent."""
        self._closing.close()

    def _close(self, env: "gym.Env[Any, Any]", b: int) -> None:
        with fault_of("closing", b, self._evaluation):
            env.close()
