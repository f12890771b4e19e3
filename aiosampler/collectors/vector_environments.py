"""The unit of a vector environment, whose environments are stepped in one call.

What it does when an episode ends depends on its autoreset mode (``metadata["autoreset_mode"]``). The records are the
same as with single environments:

=========  =========================================================================================================
mode       how the reset of an environment is done
=========  =========================================================================================================
Disabled   ``reset(options={"reset_mask": mask})`` resets only these environments
NextStep   in the same way, if the vector environment supports it; else the next step resets it, and its row of that
           step is blank
SameStep   the step has reset it already; final observation and info are in the infos
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
from aiosampler.collectors.recording import Mismatch, as_flags
from aiosampler.collectors.reset_of_some import ResetOfSome
from aiosampler.collectors.vector_infos import ABSENT, EPISODE, FINAL_OBSERVATIONS, final_of, info_of, overwritten
from aiosampler.errors import ConfigError
from aiosampler.memory.progress import AT, MORE, TICK, environment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import gymnasium as gym

    from aiosampler.collectors.step_row import StepRow
    from aiosampler.interfaces import OnReset, OnStep

DISABLED, NEXT_STEP, SAME_STEP = "Disabled", "NextStep", "SameStep"


class VectorTraits(NamedTuple):
    """What a vector environment supports; see `try_vector`."""

    mode: str  # of autoreset: the value of an entry of Gymnasium's `AutoresetMode`
    masks: bool  # whether it can reset some of its environments, by a mask
    seeds: str  # it takes a "list" for all, an "array" for those reset, the "first" one only, or "none"


def single_spaces(env: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The spaces of a single environment; old vector environments have these under the plain names."""
    names = ("observation_space", "action_space")
    single = all(hasattr(env, f"single_{name}") for name in names)
    return tuple(getattr(env, f"single_{name}" if single else name) for name in names)


class VectorEnvironments:
    """An `EnvironmentUnit` that is one vector environment.

    Args:
        vector: The vector environment.
        n: Number of its environments.
        first: Global index of the first one.
        cells: Progress cells of this process.
        traits: What it supports.
        evaluation: Whether these are evaluation environments.
    """

    pauses = False
    takes_batches = True

    def __init__(self, vector: Any, n: int, first: int, cells: Any, traits: VectorTraits, *, evaluation: bool) -> None:
        self._vector, self._n, self._first, self._evaluation = vector, n, first, evaluation
        self._cells, self._traits = memoryview(cells), traits
        self._masks = traits.masks or n == 1  # a reset of all environments is one of the only one
        self._same_step = traits.mode == SAME_STEP
        self._later_only = traits.mode == NEXT_STEP and not self._masks
        self._done = np.zeros(n, np.bool_)
        self._all, self._shape = tuple(range(n)), (n,)
        self._fresh: dict[int, tuple[Any, Any]] = {}  # observation and info of those that the last step has reset
        self._later: list[int] = []  # environments that the next step resets
        self._dead: set[int] = set()  # environments whose episodes ended, which must be reset before the next step
        self._begun = self._closed = False

    def action_space(self, i: int) -> gym.Space[Any]:
        """The action space of environment i."""
        return single_spaces(self._vector)[1]

    def check_reset_options(self) -> None:
        """Refuse options for resets where they would be ignored.

        Raises:
            ConfigError: The vector environment resets its environments itself.
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
        """Reset environments, in one call for all that have the same options."""
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
            if anew and self._n > 1 and (len(groups) == 1 or not self._begun):
                self._reset_all(environments, seeds, groups[0][0], on_reset)
                return ()
            for given, some in groups:
                if self._fresh and given is None and seeds is None:
                    some = self._answer_with_fresh(some, on_reset)
                if some:
                    reset = self._reset_all if self._n == 1 else self._reset_some
                    reset(some, seeds, given, on_reset)
        except EnvironmentFault:
            raise
        except BaseException as exc:
            raise EnvironmentFault("resetting", self._first, self._evaluation, self._n - 1) from api_error(exc)
        return ()

    def _answer_with_fresh(self, environments: Sequence[int], on_reset: OnReset) -> list[int]:
        """Call `on_reset` for those that the last step has reset; return the others."""
        for i in environments:
            if i in self._fresh:
                on_reset(i, *self._fresh[i])
        return [i for i in environments if i not in self._fresh]

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step all environments, and record the results of those in `environments`."""
        cells = self._cells
        cells[MORE] = self._n - 1
        cells[AT] = self._first
        later = self._later
        try:
            ended, (observation, reward, terminated, truncated, infos) = self._step(actions)
            stepped = None if len(environments) + len(later) == self._n else environments
            row.record_all(observation, reward, infos, stepped if stepped is None else [*stepped, *later])
            if row.each_step:
                for i in environments:
                    self._look_at(i, row, observation, terminated, truncated, infos)
            elif ended:
                which = self._done.nonzero()[0].tolist()
                if later or stepped is not None:
                    which = [i for i in which if i in environments]
                if self._same_step:
                    for i in which:
                        self._look_at(i, row, observation, terminated, truncated, infos)
                else:
                    row.end_all(which, terminated, truncated)
            if later:
                self._later = []
                if ended and self._done[later].any():
                    raise Mismatch(
                        "an episode ended in the step that had to reset the environment: if it resets none by itself, "
                        'it must say so, by metadata["autoreset_mode"] = AutoresetMode.DISABLED, and take a reset_mask'
                    )
                row.start_all(later, infos)
        except EnvironmentFault:
            raise
        except BaseException as exc:
            doing = f"taking step {row.t} of the batch"
            raise EnvironmentFault(doing, self._first, self._evaluation, self._n - 1) from api_error(exc)

    def _look_at(self, i: int, row: StepRow, observation: Any, terminated: Any, truncated: Any, infos: Any) -> None:
        """Pass a step of environment i to its trajectory info, if it needs that, and record an end of its episode."""
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
        """The final observation and info of environment i, which the step may have reset.

        What it was reset to is kept for `reset`.
        """
        last, info = final_of(infos, i)
        begins, told = pick(observation, i), info_of(infos, i)
        if EPISODE in told and info is not ABSENT:
            info = {**info, EPISODE: told.pop(EPISODE)}
        listed = not isinstance(infos, Mapping)  # as in old libraries, whose info at an end is not that of the reset
        self._fresh[i] = copy.deepcopy((begins, {} if listed and info is ABSENT else told))
        if last is ABSENT:
            raise Mismatch(
                f"an episode ended, and the infos have none of {', '.join(FINAL_OBSERVATIONS)}, as those of a vector "
                "environment that resets within the step must; if each is one of several agents, all must end at once"
            )
        if overwritten(self._vector, i, last):
            raise Mismatch(
                "the last observation of an episode was overwritten by the reset within the step, as the environment "
                "returns the same array each time: let it return copies, or use another autoreset mode"
            )
        return last, told if info is ABSENT else info

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Step all environments, outside of a batch."""
        self._in_hand()
        space = self.action_space(0)
        with self._fault_of("taking random steps"):
            empty: Any = create_empty_array(space, self._n)
            chosen = concatenate(space, [actions[i] for i in self._all], empty)
            ended, (observation, reward, terminated, truncated, infos) = self._step(chosen)
        for i in self._all:
            last, info = pick(observation, i), info_of(infos, i)
            if self._same_step and ended and self._done[i]:
                last, info = self._end_of(i, observation, infos)
            on_step(i, last, reward[i], bool(terminated[i]), bool(truncated[i]), info)

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call environments, as far as the vector environment supports it."""
        self._in_hand()
        yield from call_vector(self._vector, ask, name, packed, self._first, self._n, evaluation=self._evaluation)

    def close(self) -> None:
        """Close the vector environment; idempotent."""
        if not self._closed:
            self._closed = True
            with fault_of("closing", self._first, self._evaluation, self._n - 1):
                self._vector.close()

    def _step(self, actions: Any) -> tuple[bool, tuple[Any, Any, Any, Any, Any]]:
        """Step all environments, including those that wait; return whether an episode ended, and the five values."""
        if self._fresh:
            self._fresh.clear()
        if self._dead:
            self._reset_some(sorted(self._dead), None, None, None)
        observation, reward, terminated, truncated, infos = check_step(self._vector.step(actions), infos=True)
        terminated = as_flags("terminated", terminated, self._shape)
        truncated = as_flags("truncated", truncated, self._shape)
        ended = 1 in terminated.tobytes() or 1 in truncated.tobytes()  # ten times as fast as `any`
        if ended:
            np.logical_or(terminated, truncated, self._done)
            if self._traits.mode == NEXT_STEP:
                self._check_mode(infos)
            if self._traits.mode == DISABLED:  # they must be reset before the next step
                self._dead.update(self._done.nonzero()[0].tolist())
        return ended, (observation, reward, terminated, truncated, infos)

    def _check_mode(self, infos: Any) -> None:
        """Refuse infos at an end that only a vector environment has which resets within the step.

        Raises:
            Mismatch: They have a final observation.
        """
        told = [key for key in FINAL_OBSERVATIONS if key in infos] if isinstance(infos, Mapping) else []
        if told:
            raise Mismatch(
                f"an episode ended, and the infos have {told[0]}, as if the step had reset the environment: such a "
                'vector environment must say so, by metadata["autoreset_mode"] = AutoresetMode.SAME_STEP'
            )

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
        named: dict[str, Any] = {"options": ResetOfSome(mask, options)}
        if seeds is not None and self._traits.seeds == "list":
            named["seed"] = [seed if mask[i] else None for i, seed in enumerate(seeds)]
        elif seeds is not None and self._traits.seeds == "array":
            named["seed"] = np.asarray(seeds)[mask]
        self._dead.difference_update(environments)
        observation, infos = check_reset(self._vector.reset(**named), infos=True)
        if on_reset is None:
            return
        rows: Any = self._all
        if _length(observation) != self._n:  # it has rows only for those that were reset
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
    """Element i of each array in a tree of arrays ``[n, ...]``."""
    if isinstance(tree, Mapping):
        return {key: pick(value, i) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(pick(value, i) for value in tree)
    return tree[i]


def _length(tree: Any) -> int:
    while isinstance(tree, Mapping | tuple):
        tree = next(iter(tree.values())) if isinstance(tree, Mapping) else tree[0]
    return len(tree)


def _by_options(
    environments: Sequence[int], options: Sequence[Mapping[str, Any] | None]
) -> list[tuple[Mapping[str, Any] | None, list[int]]]:
    """Group environments by their options; return pairs of options and environments."""
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
    except ValueError:  # they contain arrays, which cannot be compared like this
        return False


def vector_name(vector: Any) -> str:
    """The name of a vector environment in messages."""
    return type(getattr(vector, "unwrapped", vector)).__name__
