"""What would hold up the user's event loop, done in a thread meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import torch

from aiosampler.runtime.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def beside_loop(function: Callable[[], T]) -> T:
    """Call `function` in a thread, on the CUDA streams of this one, and return what it returns.

    Where the caller is cancelled it ends all the same, and only then the cancellation goes on: what it reads and writes
    is the caller's again.
    """
    streams = _cuda_streams()

    def call() -> T:
        with contextlib.ExitStack() as stack:
            for stream in streams:
                stack.enter_context(torch.cuda.stream(stream))
            return function()

    running = asyncio.ensure_future(in_thread(call))  # owned: awaited below
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        running.exception()  # nobody wants it
        raise cancelled
    return running.result()


def _cuda_streams() -> list[torch.cuda.Stream]:
    """The current stream of each device in use, that of the current device last; a thread has others."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    current = torch.cuda.current_device()
    devices = [*(i for i in range(torch.cuda.device_count()) if i != current), current]
    return [torch.cuda.current_stream(i) for i in devices]
