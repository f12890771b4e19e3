"""Calls that are cancelled, as by the interrupt of a notebook, leave nothing that keeps the sampler.

Interactive sessions keep the last traceback, and with it the local variables of each of its frames. A sampler that is
dropped otherwise, since the cell that made it is run again, would stay with all its processes until the next error.
"""

from __future__ import annotations

import asyncio
import functools
import traceback
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def leaves_nothing(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A coroutine method whose frames forget their variables when it is cancelled."""

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except asyncio.CancelledError as exc:
            del self
            traceback.clear_frames(exc.__traceback__)  # but that of this function, which runs
            raise

    return call
