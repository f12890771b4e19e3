"""The final observations of the episodes that ended in a batch, and the agent's values of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from aiosampler.errors import SamplerError
from aiosampler.samplers.plain_batches import shapes
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable


class EpisodeEnds:
    """The base class: an element for each of the N episodes that ended in a batch.

    ``ends[t, b]`` is the element of the episode that ended at step t of environment b. The arrays below are ordered by
    step, then environment. They are copied from the slot when one is first used; if that is only after the next batch
    was asked for, they raise `SamplerError`.
    """

    #: Name of the field of a slot that holds the elements.
    field: ClassVar[str]
    #: Name of the attribute with the elements.
    shown_as: ClassVar[str]

    def __init__(
        self,
        arrays: dict[str, Any],
        *,
        gathered: tuple[torch.Tensor, torch.Tensor, Tree] | None = None,
        shape: tuple[int, int] = (0, 0),
    ) -> None:
        self._arrays: dict[str, Any] | None = arrays  # of the slot
        self._gathered = gathered
        self._shape: tuple[int, int] = arrays["done"].shape if arrays else shape

    def __getstate__(self) -> dict[str, Any]:
        return {"_arrays": None, "_gathered": self._gather(), "_shape": self._shape}

    @property
    def shape(self) -> tuple[int, int]:
        """T and B of the batch."""
        return self._shape

    @property
    def t(self) -> torch.Tensor:
        """``[N]`` int64: the steps at which `done` is set."""
        return self._gather()[0]

    @property
    def b(self) -> torch.Tensor:
        """``[N]`` int64: the environments."""
        return self._gather()[1]

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, place: tuple[int, int]) -> Tree:
        t, b = place
        T, B = self._shape
        if not (-T <= t < T and -B <= b < B):
            raise IndexError(f"[{t}, {b}] is outside of a batch of [{T}, {B}]")
        (index,) = torch.nonzero((self.t == t % T) & (self.b == b % B), as_tuple=True)
        if not len(index):
            what = self.field.replace("_", " ")
            raise IndexError(f"no episode ended at [{t}, {b}]: {what}s are where done is True")
        return tree_map(lambda leaf: leaf[int(index)], self._gather()[2])

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same with `function` applied to `t`, `b` and each tensor of the rest; it holds no view of a slot."""
        return type(self)({}, gathered=tree_map(function, self._gather()), shape=self._shape)

    def clone(self) -> Self:
        """A copy that is independent of the slot."""
        return self.map(torch.clone)

    def as_dict(self) -> dict[str, Tree]:
        """A dict with ``t``, ``b`` and the elements, by the name of their attribute."""
        return {"t": self.t, "b": self.b, self.shown_as: self._gather()[2]}

    def __repr__(self) -> str:
        """Shows only what needs no copying from the slot."""
        return f"{type(self).__name__}({'' if self._gathered is None else shapes(self.as_dict())})"

    def expire(self) -> None:
        """Called when the slot goes back to the sampler: if nothing was copied yet, later use raises."""
        self._arrays = None

    def _gather(self) -> tuple[torch.Tensor, torch.Tensor, Tree]:
        if self._gathered is None:
            if self._arrays is None:
                raise SamplerError(
                    f"the batch went back to the sampler when the next one was asked for, and its "
                    f"{self.field.replace('_', ' ')}s with it; read them before, or clone() the batch"
                )
            count, ends = self._arrays["final_count"], self._arrays["final_t"]
            b, k = np.nonzero(np.arange(ends.shape[1]) < count[:, None])
            t = ends[b, k].astype(np.int64)
            order = np.lexsort((b, t))
            t, b, k = t[order], b[order], k[order]
            rest = tree_map(lambda leaf: torch.from_numpy(leaf[b, k]), self._arrays[self.field])
            self._gathered = torch.from_numpy(t), torch.from_numpy(b), rest
        return self._gathered


class FinalObservations(EpisodeEnds):
    """The true last observations of the N episodes that ended in a batch, before their resets.

    ``final_observation[t, b]`` is that of the episode that ended at step t of environment b. The arrays below are
    ordered by step, then environment. They are copied from the slot when one is first used; if that is only after the
    next batch was asked for, they raise `SamplerError`.
    """

    field = "final_observation"
    shown_as = "observation"

    @property
    def observation(self) -> Tree:
        """Tree ``[N, ...]``."""
        return self._gather()[2]


class FinalValues(EpisodeEnds):
    """The agent's values of the final observations of the N episodes that ended in a batch.

    ``final_value[t, b]`` is that of the episode that ended at step t of environment b, with the recurrent state at its
    end and the parameters of the batch. For a truncated episode it estimates the return of the steps that were cut off;
    for a terminated one it has no meaning. The arrays are copied when first used, as those of `FinalObservations`.
    """

    field = "final_value"
    shown_as = "value"

    @property
    def value(self) -> torch.Tensor:
        """``[N]``."""
        value: torch.Tensor = self._gather()[2]
        return value

    def dense(self) -> torch.Tensor:
        """``[T, B]``: the values in place, zeros where no episode ended."""
        values = self.value.new_zeros(self._shape)
        values[self.t, self.b] = self.value
        return values
