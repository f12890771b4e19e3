"""Running a slow function in a thread, so that the user's event loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import torch

from aiosampler.runtime.tasks import to_the_end
from aiosampler.runtime.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def beside_loop(function: Callable[[], T]) -> T:
    """Call `function` in a thread, with the current CUDA streams of this one, and return its result.

    If the caller is cancelled, the function still runs to its end, and the cancellation is raised after that. So when
    this returns or raises, nothing uses the caller's data any more.
    """
    streams = _cuda_streams()

    def call() -> T:
        with contextlib.ExitStack() as stack:
            for stream in streams:
                stack.enter_context(torch.cuda.stream(stream))
            return function()

    return await to_the_end(asyncio.ensure_future(in_thread(call)))


def _cuda_streams() -> list[torch.cuda.Stream]:
    """The current stream of each device in use, that of the current device last; new threads start with others."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    current = torch.cuda.current_device()
    devices = [*(i for i in range(torch.cuda.device_count()) if i != current), current]
    return [torch.cuda.current_stream(i) for i in devices]
