"""Reporting code that blocks the event loop of environments with coroutine methods."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container
    from types import CodeType, FrameType

    from aiosampler.collectors.coroutine_lives import Lives
    from aiosampler.runtime.loop_thread import LoopThread

HELD_UP_S = 0.3  # a loop that runs no callback for so long is reported

log = logging.getLogger("aiosampler")


def report_blocked_loop(loop: LoopThread, held: float, tasks: Container[CodeType], process: str, doing: str) -> None:
    """Log, once for each place, where the loop is blocked; set the environment that blocks it in the progress cells.

    Args:
        loop: The loop.
        held: Seconds for which it has run no callback.
        tasks: Code of the coroutines of `Lives` that run environments.
        process: Name of this process.
        doing: What is being done.
    """
    frame = loop.frame()
    if held < HELD_UP_S or frame is None:
        return
    who, found = "a task of an environment's", _environment_of(frame, tasks)
    if found is not None:
        lives, i = found  # if each environment has its own `Lives`, these may be others than the caller's
        lives.in_hand(i)
        who = lives.name(i)
    key = frame.f_code.co_filename, frame.f_lineno
    if key not in loop.told:
        loop.told.add(key)
        log.warning(
            "%s holds up the event loop of %s, for %.1f s so far, while %s: in %s (%s:%d). All other "
            "environments there wait for it; await what takes time, or call it by asyncio.to_thread()",
            who, process, held, doing, frame.f_code.co_name, *key,
        )  # fmt: skip


def _environment_of(frame: FrameType | None, tasks: Container[CodeType]) -> tuple[Lives, int] | None:
    """Local variables `self` and `i` of the first caller of a frame whose code is in `tasks`; None without one."""
    while frame is not None:
        if frame.f_code in tasks:
            return frame.f_locals["self"], int(frame.f_locals["i"])
        frame = frame.f_back
    return None
