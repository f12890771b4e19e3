"""A process tells through the arena that its event loop turns, so that who waits for it sees when it is stopped."""

import asyncio
from typing import Any


def beat(ticks: Any, limit: float | None) -> None:
    """Count up in `ticks` several times in `limit` seconds, as long as the running event loop lives.

    Args:
        ticks: Array of one element that the watcher looks at.
        limit: After how long it is taken for stuck; None: nobody looks.
    """
    if limit is None:
        return
    loop, interval = asyncio.get_running_loop(), limit / 8

    def tick() -> None:
        ticks[0] += 1
        loop.call_later(interval, tick)

    tick()
