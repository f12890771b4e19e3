"""Keeping tracebacks of cancelled calls from holding references to the sampler.

Interactive sessions keep the last traceback, and with it the local variables of its frames. After a call was
interrupted, that would keep a sampler and its processes alive until the next error, even if the cell that made it is
run again.
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
    """A decorator for coroutine methods: when a call is cancelled, clear the local variables of its frames."""

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except asyncio.CancelledError as exc:
            del self
            traceback.clear_frames(exc.__traceback__)  # except of this function, which is running
            raise

    return call
