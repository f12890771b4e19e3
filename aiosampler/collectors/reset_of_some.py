"""The options of a reset of some environments of a vector environment."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class ResetOfSome(dict[str, Any]):
    """Options with a ``reset_mask``, which outer wrappers find although an inner environment has taken it out.

    Gymnasium's `SyncVectorEnv` pops it before its wrappers look for it in the same dict, so without this the vector
    wrapper `RecordEpisodeStatistics` takes the reset of some for one of all, and forgets the rewards of the others.

    Args:
        mask: Which environments are reset, ``[n]`` bool.
        options: Other options; None for none.
    """

    def __init__(self, mask: np.ndarray[Any, Any], options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options or {}, reset_mask=mask)
        self._mask = mask

    def __contains__(self, key: object) -> bool:
        return key == "reset_mask" or super().__contains__(key)

    def __missing__(self, key: str) -> Any:
        if key != "reset_mask":
            raise KeyError(key)
        return self._mask

    def get(self, key: str, default: Any = None) -> Any:
        """An item; a `dict` does not call `__missing__` here."""
        return super().get(key, self._mask if key == "reset_mask" else default)

    def pop(self, key: str, *default: Any) -> Any:
        """Remove an item, which `in` and indexing still find if it is the mask."""
        return super().pop(key, *([self._mask] if key == "reset_mask" else default))

    def __reduce__(self) -> Any:
        """What is sent to another process is a plain dict."""
        return dict, (dict(self),)
