"""A process tells through the arena that its event loop turns, so that who waits for it sees when it is stopped."""

import asyncio
from typing import Any

from aiosampler.collectors.progress import TICK


def beat(cells: Any, limit: float | None) -> None:
    """Move on in `cells` several times in `limit` seconds, as long as the running event loop lives.

    Args:
        cells: Progress cells of this process.
        limit: After how long it is taken for stuck; None: nobody looks.
    """
    if limit is None:
        return
    loop, interval = asyncio.get_running_loop(), limit / 8

    def tick() -> None:
        cells[TICK] += 1
        loop.call_later(interval, tick)

    tick()
