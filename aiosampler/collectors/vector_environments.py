"""A vector environment as a unit: all of its environments are stepped in one call.

What it does where an episode ends is its autoreset mode (``metadata["autoreset_mode"]``). What is recorded is what
single environments would give:

=========  =========================================================================================================
mode       a reset is answered
=========  =========================================================================================================
Disabled   by a reset of those environments alone: ``reset(options={"reset_mask": mask})``
NextStep   in the same way, where the environment offers it; else the next step is one of the others alone, and
           resets: its row is blank
SameStep   with what the step returned; what came before it is in the infos
=========  =========================================================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from aiosampler.collectors.environment_access import Ask, call_vector
from aiosampler.collectors.environment_checks import api_error, check_reset, check_step
from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.recording import Mismatch
from aiosampler.collectors.vector_infos import ABSENT, FINAL_OBSERVATIONS, final_of, info_of
from aiosampler.errors import ConfigError
from aiosampler.memory.progress import AT, MORE, TICK, environment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import gymnasium as gym

    from aiosampler.collectors.step_row import StepRow
    from aiosampler.interfaces import OnReset, OnStep

DISABLED, NEXT_STEP, SAME_STEP = "Disabled", "NextStep", "SameStep"


class VectorTraits(NamedTuple):
    """What a vector environment can do; see `try_vector`."""

    mode: str  # of autoreset
    masks: bool  # whether some of its environments can be reset alone
    seeds: str  # "list" for one of all, "array" of those that are reset, "first" for that of the first, "none"


def single_spaces(env: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The spaces of one of the environments; those of old vector environments are of one anyway."""
    names = ("observation_space", "action_space")
    single = all(hasattr(env, f"single_{name}") for name in names)
    return tuple(getattr(env, f"single_{name}" if single else name) for name in names)


class VectorEnvironments:
    """An `EnvironmentUnit` that is one vector environment.

    Args:
        vector: The vector environment, of n environments.
        n: How many.
        first: Global index of the first of them.
        cells: Progress cells of this process.
        traits: What it can do.
        evaluation: Whether these are evaluation environments.
    """

    pauses = False
    takes_batches = True

    def __init__(self, vector: Any, n: int, first: int, cells: Any, traits: VectorTraits, *, evaluation: bool) -> None:
        self._vector, self._n, self._first, self._evaluation = vector, n, first, evaluation
        self._cells, self._traits = memoryview(cells), traits
        self._masks = traits.masks or n == 1  # a reset of all is one of the only one
        self._same_step = traits.mode == SAME_STEP
        self._later_only = traits.mode == NEXT_STEP and not self._masks
        self._done = np.zeros(n, np.bool_)
        self._all = tuple(range(n))
        self._fresh: dict[int, tuple[Any, Any]] = {}  # what environments gave that were reset within the last step
        self._later: list[int] = []  # environments that the next step resets
        self._dead: set[int] = set()  # environments whose episodes ended, and that are not to be stepped before a reset
        self._begun = self._closed = False

    def action_space(self, i: int) -> gym.Space[Any]:
        """The action space of environment i."""
        return single_spaces(self._vector)[1]

    def check_reset_options(self) -> None:
        """Refuse options for resets where they would be ignored.

        Raises:
            ConfigError: The vector environment resets its environments by itself.
        """
        if not self._masks:
            raise ConfigError(
                f"set_reset_options() would be ignored: the vector environment {vector_name(self._vector)} resets its "
                f"environments by itself, in the autoreset mode {self._traits.mode}, without options"
            )

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
        """Reset environments: those that are to have the same options at once."""
        if self._later_only and not anew:
            self._later += environments
            return environments
        if phase is not None:
            phase(f"resetting {environment_name(self._first, self._evaluation, self._n - 1)}")
        self._in_hand()
        if not environments:
            return ()
        try:
            groups = _by_options(environments, options)
            if self._n == 1 or (anew and (len(groups) == 1 or not self._begun)):
                self._reset_all(environments, seeds, groups[0][0], on_reset)
                return ()
            for given, some in groups:
                if self._fresh and given is None and seeds is None:
                    some = self._answer_with_fresh(some, on_reset)
                if some:
                    self._reset_some(some, seeds, given, on_reset)
        except EnvironmentFault:
            raise
        except BaseException as exc:
            raise EnvironmentFault("resetting", self._first, self._evaluation, self._n - 1) from api_error(exc)
        return ()

    def _answer_with_fresh(self, environments: Sequence[int], on_reset: OnReset) -> list[int]:
        """Tell of those that were reset within the last step; return the others."""
        for i in environments:
            if i in self._fresh:
                on_reset(i, *self._fresh[i])
        return [i for i in environments if i not in self._fresh]

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step all environments, and record of these what they return."""
        cells = self._cells
        cells[MORE] = self._n - 1
        cells[AT] = self._first
        later = self._later
        try:
            ended, (observation, reward, terminated, truncated, infos) = self._step(actions)
            which = self._all if len(environments) + len(later) == self._n else environments
            row.record_all(observation, reward, infos, which)
            if row.each_step:
                for i in environments:
                    self._look_at(i, row, observation, terminated, truncated, infos)
            elif ended:
                for i in self._done.nonzero()[0].tolist():
                    if i in environments:
                        self._look_at(i, row, observation, terminated, truncated, infos)
            if later:
                self._later = []
                for i in later:
                    row.start(i, pick(observation, i), info_of(infos, i) if row.write_info else {})
        except EnvironmentFault:
            raise
        except BaseException as exc:
            doing = f"taking step {row.t} of the batch"
            raise EnvironmentFault(doing, self._first, self._evaluation, self._n - 1) from api_error(exc)

    def _look_at(self, i: int, row: StepRow, observation: Any, terminated: Any, truncated: Any, infos: Any) -> None:
        """Show a step of environment i to its trajectory info, if wanted, and see to the end of its episode."""
        flags = bool(terminated[i]), bool(truncated[i])
        ended = flags[0] or flags[1]
        if ended and self._same_step:
            last, info = self._end_of(i, observation, infos)
            row.replace_info(i, info)
        else:
            last, info = pick(observation, i), info_of(infos, i) if row.each_step else None
        if row.each_step:
            row.count(i, *flags, info)
        if ended:
            row.end(i, last, *flags)

    def _end_of(self, i: int, observation: Any, infos: Any) -> tuple[Any, Any]:
        """The last observation and info of an episode of an environment that was reset within the step.

        What it was reset to is kept for `reset`.
        """
        last, info = final_of(infos, i)
        begins, begins_with = pick(observation, i), info_of(infos, i)
        self._fresh[i] = copy.deepcopy((begins, begins_with))
        if last is ABSENT and isinstance(infos, Mapping):
            raise Mismatch(
                f"an episode ended, and the infos have none of {', '.join(FINAL_OBSERVATIONS)}, as those of a vector "
                "environment that resets within the step must"
            )
        return begins if last is ABSENT else last, begins_with if info is ABSENT else info

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Step all environments, outside of batches."""
        self._in_hand()
        space = self.action_space(0)
        with self._fault_of("taking random steps"):
            empty: Any = create_empty_array(space, self._n)
            chosen = concatenate(space, [actions[i] for i in self._all], empty)
            _, (observation, reward, terminated, truncated, infos) = self._step(chosen)
        for i in self._all:
            last, info = pick(observation, i), info_of(infos, i)
            if self._same_step and self._done[i]:
                last, info = self._end_of(i, observation, infos)
            on_step(i, last, reward[i], bool(terminated[i]), bool(truncated[i]), info)

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Have environments do something, as far as a vector environment can."""
        self._in_hand()
        yield from call_vector(self._vector, ask, name, packed, self._first, self._n, evaluation=self._evaluation)

    def close(self) -> None:
        """Close the vector environment; idempotent."""
        if not self._closed:
            self._closed = True
            with fault_of("closing", self._first, self._evaluation, self._n - 1):
                self._vector.close()

    def _step(self, actions: Any) -> tuple[bool, tuple[Any, Any, Any, Any, Any]]:
        """Step all environments, those that wait as well; return whether an episode ended, and what step returned."""
        if self._fresh:
            self._fresh.clear()
        if self._dead:
            self._reset_some(sorted(self._dead), None, None, None)
        observation, reward, terminated, truncated, infos = check_step(self._vector.step(actions), infos=True)
        terminated = _flags("terminated", terminated, self._n)
        truncated = _flags("truncated", truncated, self._n)
        np.logical_or(terminated, truncated, self._done)
        ended = 1 in self._done.tobytes()  # in a tenth of the time of `any`
        if ended and self._traits.mode == DISABLED:  # they are not to be stepped before a reset
            self._dead.update(self._done.nonzero()[0].tolist())
        return ended, (observation, reward, terminated, truncated, infos)

    def _reset_all(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Mapping[str, Any] | None,
        on_reset: OnReset,
    ) -> None:
        named: dict[str, Any] = {} if options is None else {"options": dict(options)}
        if seeds is not None and self._traits.seeds != "none":
            named["seed"] = {"list": list(seeds), "array": np.asarray(seeds), "first": seeds[0]}[self._traits.seeds]
        self._later, self._begun = [], True
        self._dead.clear()
        observation, infos = check_reset(self._vector.reset(**named), infos=True)
        for i in environments:
            on_reset(i, pick(observation, i), info_of(infos, i))

    def _reset_some(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Mapping[str, Any] | None,
        on_reset: OnReset | None,
    ) -> None:
        mask = np.zeros(self._n, np.bool_)
        mask[list(environments)] = True
        named: dict[str, Any] = {"options": {**(options or {}), "reset_mask": mask}}
        if seeds is not None and self._traits.seeds == "list":
            named["seed"] = [seed if mask[i] else None for i, seed in enumerate(seeds)]
        elif seeds is not None and self._traits.seeds == "array":
            named["seed"] = np.asarray(seeds)[mask]
        self._dead.difference_update(environments)
        observation, infos = check_reset(self._vector.reset(**named), infos=True)
        if on_reset is None:
            return
        rows: Any = self._all
        if _length(observation) != self._n:  # of those that were reset alone
            rows = np.cumsum(mask) - 1
        for i in environments:
            on_reset(i, pick(observation, rows[i]), info_of(infos, rows[i]))

    def _in_hand(self) -> None:
        cells = self._cells
        cells[TICK] += 1
        cells[MORE] = self._n - 1
        cells[AT] = self._first

    def _fault_of(self, doing: str) -> Any:
        return fault_of(doing, self._first, self._evaluation, self._n - 1)


def pick(tree: Any, i: Any) -> Any:
    """What environment i has of a tree of arrays; a dict or tuple of arrays is a tree of one."""
    if isinstance(tree, Mapping):
        return {key: pick(value, i) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(pick(value, i) for value in tree)
    return tree[i]


def _length(tree: Any) -> int:
    while isinstance(tree, Mapping | tuple):
        tree = next(iter(tree.values())) if isinstance(tree, Mapping) else tree[0]
    return len(tree)


def _flags(name: str, value: Any, n: int) -> np.ndarray[Any, Any]:
    """Flags of n environments as booleans.

    Raises:
        Mismatch: They are not plainly booleans, or not n.
    """
    array = value if type(value) is np.ndarray else np.asarray(value)
    if array.shape == (n,):
        if array.dtype.char == "?":
            return array
        if array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
            return array.astype(np.bool_)
    raise Mismatch(f"{name} must be an array of {n} booleans, got {value!r}")


def _by_options(
    environments: Sequence[int], options: Sequence[Mapping[str, Any] | None]
) -> list[tuple[Mapping[str, Any] | None, list[int]]]:
    """Environments that get the same options, with these."""
    if len(environments) == 1:
        return [(options[environments[0]], list(environments))]
    groups: list[tuple[Mapping[str, Any] | None, list[int]]] = []
    for i in environments:
        for given, some in groups:
            if _same(given, options[i]):
                some.append(i)
                break
        else:
            groups.append((options[i], [i]))
    return groups


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except ValueError:  # arrays in them
        return False


def vector_name(vector: Any) -> str:
    """What messages call a vector environment."""
    return type(getattr(vector, "unwrapped", vector)).__name__
