"""A counter in shared memory that the event loop of a process keeps raising, so that others see when it is stopped."""

import asyncio
from typing import Any


def beat(ticks: Any, limit: float | None) -> None:
    """Add to `ticks` several times in `limit` seconds, for as long as the running event loop exists.

    Args:
        ticks: Array of one element that the watcher looks at.
        limit: Seconds without a change after which the watcher takes it for stuck; None if nothing watches.
    """
    if limit is None:
        return
    loop, interval = asyncio.get_running_loop(), limit / 8

    def tick() -> None:
        ticks[0] += 1
        loop.call_later(interval, tick)

    tick()
