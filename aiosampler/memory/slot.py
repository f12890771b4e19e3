"""The table of the fields of a slot, `FIELDS`, and everything that is derived from it.

Derived are the layout of the arena, the columns of one worker or group, which rows are carried over to the next batch,
what is cleared when a batch begins, what is set to zero where an environment takes no steps, and what the user sees. A
new field is a line in the table and one where it is written; one that the user sees is also an attribute of its part of
`Samples`, with a type and a docstring.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec, batched
from aiosampler.specs.batch import BatchSpec, StepSpecs
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

#: The arrays of a slot: for each field, by name, a tree of arrays.
Slot = dict[str, Tree]


class Axes(Enum):
    """Leading axes of a field: T time steps, B environments."""

    STEPS = "[T, B]"
    #: Row t + 1 is written when the environments have taken step t, and is input of the agent at step t + 1. The last
    #: row is copied to row 0 of the next batch.
    STEPS_AND_NEXT = "[T + 1, B]"
    ENVIRONMENTS = "[B]"
    #: Element ``[b, k]`` belongs to the k-th end of an episode of environment b. There is room for an end at each step.
    ENDS = "[B, T]"


class Blank(Enum):
    """Which elements of a field are set to zero for an environment that takes no steps from row `start` on."""

    #: The rows from `start` on, when the batch is complete.
    ROWS = auto()
    #: The same, but as soon as an environment waits: the agent acts for all environments, and sees zeros there.
    ROWS_AT_ONCE = auto()
    #: The element of the environment.
    ELEMENT = auto()
    #: The element of the environment, if `start` is 0, so that it takes no step in this batch.
    ELEMENT_OF_EMPTY = auto()
    #: None: `final_count` says how many elements are valid.
    NOTHING = auto()


class Part(Enum):
    """The part of `Samples` that shows a field."""

    SAMPLES = auto()
    AGENT = auto()
    ENV = auto()
    #: Not shown under its own name: the fields of episode ends are shown as `EpisodeEnds`.
    HIDDEN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a slot.

    Attributes:
        name: Its key in a slot, and the name of the attribute that shows it.
        axes: Its leading axes.
        element: Returns, from the specs of a step, the tree of `ArraySpec` of one element without leading axes; None
            if nothing is recorded.
        part: The part of `Samples` in which the user sees it; the first T rows if it has T + 1.
        next_name: Name of the attribute that shows row T; None if row T is not shown.
        blank: What is set to zero for an environment that takes no steps.
        cleared_to: Value that fills it when a batch begins; None if a batch writes each element.
        sparse: Whether only few elements are written, so that its memory is not reserved.
    """

    name: str
    axes: Axes
    element: Callable[[StepSpecs], Tree]
    part: Part
    next_name: str | None = None
    blank: Blank = Blank.ROWS
    cleared_to: bool | int | None = None
    sparse: bool = False

    def specs(self, batch: BatchSpec, step: StepSpecs) -> Tree:
        """The tree of `ArraySpec` of the field in a slot."""
        leading = {
            Axes.STEPS: (batch.T, batch.B),
            Axes.STEPS_AND_NEXT: (batch.T + 1, batch.B),
            Axes.ENVIRONMENTS: (batch.B,),
            Axes.ENDS: (batch.B, batch.T),
        }
        return batched(self.element(step), *leading[self.axes])


def _each(dtype: type) -> Callable[[StepSpecs], ArraySpec]:
    spec = ArraySpec((), np.dtype(dtype))
    return lambda step: spec


def _flags(step: StepSpecs) -> Tree:
    """A flag for each recorded key of the infos."""
    return dict.fromkeys(step.env_info or (), ArraySpec((), np.dtype(np.bool_)))


# fmt: off
FIELDS = (
    Field(name="observation", axes=Axes.STEPS_AND_NEXT, element=lambda step: step.observation, part=Part.ENV,
          next_name="last_observation", blank=Blank.ROWS_AT_ONCE),
    Field(name="prev_action", axes=Axes.STEPS_AND_NEXT, element=lambda step: step.action, part=Part.AGENT),
    Field(name="prev_reward", axes=Axes.STEPS_AND_NEXT, element=_each(np.float32), part=Part.ENV),
    Field(name="action", axes=Axes.STEPS, element=lambda step: step.action, part=Part.AGENT),
    Field(name="agent_info", axes=Axes.STEPS, element=lambda step: step.agent_info, part=Part.AGENT),
    Field(name="policy_version", axes=Axes.STEPS, element=lambda step: step.policy_version, part=Part.AGENT),
    Field(name="reward", axes=Axes.STEPS, element=_each(np.float32), part=Part.ENV),
    Field(name="terminated", axes=Axes.STEPS, element=_each(np.bool_), part=Part.ENV, cleared_to=False),
    Field(name="truncated", axes=Axes.STEPS, element=_each(np.bool_), part=Part.ENV, cleared_to=False),
    Field(name="done", axes=Axes.STEPS, element=_each(np.bool_), part=Part.ENV, cleared_to=False),
    Field(name="first", axes=Axes.STEPS_AND_NEXT, element=_each(np.bool_), part=Part.ENV, cleared_to=False),
    Field(name="valid", axes=Axes.STEPS, element=_each(np.bool_), part=Part.SAMPLES, cleared_to=True),
    Field(name="env_info", axes=Axes.STEPS, element=lambda step: step.env_info, part=Part.ENV, cleared_to=0),
    Field(name="env_info_present", axes=Axes.STEPS, element=_flags, part=Part.ENV, cleared_to=False),
    Field(name="prev_env_info", axes=Axes.STEPS_AND_NEXT, element=lambda step: step.env_info, part=Part.ENV,
          blank=Blank.ROWS_AT_ONCE),
    Field(name="prev_env_info_present", axes=Axes.STEPS_AND_NEXT, element=_flags, part=Part.ENV,
          blank=Blank.ROWS_AT_ONCE),
    Field(name="initial_state", axes=Axes.ENVIRONMENTS, element=lambda step: step.state, part=Part.AGENT,
          blank=Blank.ELEMENT_OF_EMPTY),
    Field(name="bootstrap_value", axes=Axes.ENVIRONMENTS, element=lambda step: step.value, part=Part.AGENT,
          blank=Blank.ELEMENT),
    Field(name="final_count", axes=Axes.ENVIRONMENTS, element=_each(np.int32), part=Part.HIDDEN,
          blank=Blank.NOTHING, cleared_to=0),
    Field(name="final_t", axes=Axes.ENDS, element=_each(np.int32), part=Part.HIDDEN, blank=Blank.NOTHING),
    Field(name="final_observation", axes=Axes.ENDS, element=lambda step: step.observation, part=Part.HIDDEN,
          blank=Blank.NOTHING, sparse=True),
    Field(name="final_value", axes=Axes.ENDS, element=lambda step: step.value, part=Part.HIDDEN,
          blank=Blank.NOTHING, sparse=True),
)
# fmt: on


def slot_specs(batch: BatchSpec, step: StepSpecs, *, sparse: bool) -> Slot:
    """The specs of the sparse arrays of one slot, or of all others."""
    return {field.name: field.specs(batch, step) for field in FIELDS if field.sparse == sparse}


def columns(slot: Slot, first: int, n: int) -> Slot:
    """Views of the columns of a slot that belong to environments `first` to ``first + n - 1``."""
    span = slice(first, first + n)

    def cut(field: Field) -> Callable[[Any], Any]:
        by_time = field.axes in (Axes.STEPS, Axes.STEPS_AND_NEXT)
        return lambda array: array[:, span] if by_time else array[span]

    return {field.name: tree_map(cut(field), slot[field.name]) for field in FIELDS}


def carried(slot: Slot) -> list[Any]:
    """The arrays ``[T + 1, n, ...]`` whose last row is row 0 of the next batch."""
    return _arrays(slot, lambda field: field.axes is Axes.STEPS_AND_NEXT)


def with_private_row(slot: Slot) -> Slot:
    """The slot with new arrays of one row, zeros, in place of those that are `carried`."""
    private = {
        field.name: tree_map(lambda array: np.zeros_like(array[:1]), slot[field.name])
        for field in FIELDS
        if field.axes is Axes.STEPS_AND_NEXT
    }
    return {**slot, **private}


def cleared(slot: Slot) -> list[tuple[Any, bool | int]]:
    """The arrays that a batch does not write completely, with what they are filled with when it begins."""
    return [
        (array, field.cleared_to)
        for field in FIELDS
        if field.cleared_to is not None
        for array in tree_leaves(slot[field.name])
    ]


class Blanks:
    """Sets to zero the elements of environments that take no steps.

    Args:
        slot: Arrays of the slot, or columns of it; `i` below is the index of a column.
    """

    def __init__(self, slot: Slot) -> None:
        self._arrays: dict[Blank, list[Any]] = {blank: [] for blank in Blank}
        for field in FIELDS:
            self._arrays[field.blank] += tree_leaves(slot[field.name])

    def inputs(self, start: int, i: int) -> None:
        """Clear the agent's inputs of environment i, which waits from row `start` on."""
        for array in self._arrays[Blank.ROWS_AT_ONCE]:
            array[start:, i] = 0

    def cells(self, rows: Sequence[int], environments: Sequence[int]) -> None:
        """Clear row ``rows[k]`` of environment ``environments[k]``, which took no step there, for each k."""
        index = np.asarray(rows, np.intp), np.asarray(environments, np.intp)
        for blank in (Blank.ROWS, Blank.ROWS_AT_ONCE):
            for array in self._arrays[blank]:
                array[index] = 0

    def end(self, i: int) -> None:
        """Clear what belongs to the end of the batch for environment i, which has no observation there."""
        for array in self._arrays[Blank.ELEMENT]:
            array[i] = 0

    def rest(self, start: int, i: int) -> None:
        """Clear what `inputs` has left of environment i, when the batch is complete."""
        for array in self._arrays[Blank.ROWS]:
            array[start:, i] = 0
        for array in self._arrays[Blank.ELEMENT]:
            array[i] = 0
        if start == 0:
            for array in self._arrays[Blank.ELEMENT_OF_EMPTY]:
                array[i] = 0


def poison(slot: Slot) -> None:
    """Fill what the user sees with NaN, the lowest signed or the highest unsigned integers; for `debug`."""
    for array in _arrays(slot, lambda field: field.part is not Part.HIDDEN):
        match array.dtype.kind:
            case "f":
                array.fill(np.nan)
            case "i":
                array.fill(np.iinfo(array.dtype).min)
            case "u":
                array.fill(np.iinfo(array.dtype).max)
            case _:
                array.fill(True)


def shown(slot: Slot, part: Part) -> Iterator[tuple[str, Tree]]:
    """Name and arrays of each field that one part of `Samples` shows: views of its first T rows, or of row T."""
    T = slot["done"].shape[0]
    for field in FIELDS:
        if field.part is part:
            tree, by_time = slot[field.name], field.axes is Axes.STEPS_AND_NEXT
            yield field.name, tree_map(lambda array: array[:T], tree) if by_time else tree
            if field.next_name is not None:
                yield field.next_name, tree_map(lambda array: array[T], tree)


def _arrays(slot: Slot, which: Callable[[Field], bool]) -> list[Any]:
    return [array for field in FIELDS if which(field) for array in tree_leaves(slot[field.name])]
