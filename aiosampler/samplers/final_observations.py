"""The observations that episodes ended with, which a batch has beside its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.errors import SamplerError
from aiosampler.samplers.plain_batches import shapes
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable


class FinalObservations:
    """The true last observations of the N episodes that ended in a batch, before their resets.

    ``final[t, b]`` is that of the episode that ended at step t of environment b. The arrays below are ordered by step,
    then environment; they are gathered, which copies them, when one is first asked for. Where that was not done before
    the next batch was asked for, they raise `SamplerError`.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays: dict[str, Any] | None = arrays  # of the slot
        self._gathered: tuple[torch.Tensor, torch.Tensor, Tree] | None = None
        self._shape: tuple[int, int] = arrays["done"].shape if arrays else (0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"_arrays": None, "_gathered": self._gather(), "_shape": self._shape}

    @property
    def t(self) -> torch.Tensor:
        """``[N]`` int64: the steps at which `done` is set."""
        return self._gather()[0]

    @property
    def b(self) -> torch.Tensor:
        """``[N]`` int64: the environments."""
        return self._gather()[1]

    @property
    def observation(self) -> Tree:
        """Tree ``[N, ...]``."""
        return self._gather()[2]

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, place: tuple[int, int]) -> Tree:
        t, b = place
        T, B = self._shape
        if not (-T <= t < T and -B <= b < B):
            raise IndexError(f"[{t}, {b}] is outside of a batch of [{T}, {B}]")
        (index,) = torch.nonzero((self.t == t % T) & (self.b == b % B), as_tuple=True)
        if not len(index):
            raise IndexError(f"no episode ended at [{t}, {b}]: final observations are where done is True")
        return tree_map(lambda leaf: leaf[int(index)], self.observation)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> FinalObservations:
        """The same with `function` applied to `t`, `b` and each of the observations; it holds no view of a slot."""
        mapped = FinalObservations({})
        mapped._gathered, mapped._shape = tree_map(function, self._gather()), self._shape
        return mapped

    def clone(self) -> FinalObservations:
        """A copy that outlives the slot, and holds nothing of it."""
        return self.map(torch.clone)

    def as_dict(self) -> dict[str, Tree]:
        """A dict with ``t``, ``b`` and ``observation``."""
        return {"t": self.t, "b": self.b, "observation": self.observation}

    def __repr__(self) -> str:
        """Looks at nothing that would have to be gathered first."""
        return "FinalObservations()" if self._gathered is None else f"FinalObservations({shapes(self.as_dict())})"

    def expire(self) -> None:
        """The slot goes back to the sampler: what was not gathered is lost."""
        self._arrays = None

    def _gather(self) -> tuple[torch.Tensor, torch.Tensor, Tree]:
        if self._gathered is None:
            if self._arrays is None:
                raise SamplerError(
                    "the batch went back to the sampler when the next one was asked for, and its final observations "
                    "with it; read them before, or clone() the batch"
                )
            count, ends = self._arrays["final_count"], self._arrays["final_t"]
            b, k = np.nonzero(np.arange(ends.shape[1]) < count[:, None])
            t = ends[b, k].astype(np.int64)
            order = np.lexsort((b, t))
            t, b, k = t[order], b[order], k[order]
            observation = tree_map(lambda leaf: torch.from_numpy(leaf[b, k]), self._arrays["final_observation"])
            self._gathered = torch.from_numpy(t), torch.from_numpy(b), observation
        return self._gathered
