"""Processes that environments have started: they are gone when the sampler is, however their own one ended.

- A process of ours that ends kills what is below it, after the environments were closed.
- Each process of ours is started with a mark in its environment variables, which all inherit that are started below it.
  The marks of what is below begin with its own. When a process was killed, its parent looks for what has its mark, and
  the sampler process, which ends last, for all: so it finds what has lost its parent, or left its session.

What cannot be found: what cleared its environment variables and detached itself; what was forked, and runs no other
program, below a process that was forked as well and was killed; what has detached itself, when all of ours were killed
at once; and all where there is no ``/proc``.
"""

import contextlib
import ctypes
import os
import signal
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MARK = "AIOSAMPLER_PROCESS"
NAME_PREFIX = "aio:"
LIMIT_S = 1.0  # for killing what starts new processes all the time
PAUSE_S = 0.005
_PR_SET_NAME = 15  # see prctl(2)

#: Process ids of the processes of ours that this one has started, fork servers among them.
own_processes: set[int] = set()

_mark = ""  # of this process


class Found(NamedTuple):
    """A process in ``/proc``."""

    pid: int
    parent: int
    name: str


def new_mark() -> str:
    """A mark for a process that this one starts, which tells that it is below this one."""
    return f"{_mark}/{uuid.uuid4().hex[:12]}"


def carry_mark(mark: str, name: str) -> None:
    """Have this process be found by its mark and its name, and the programs below it by the mark."""
    global _mark
    _mark = os.environ[MARK] = mark
    own_processes.clear()  # of the process that has forked this one
    name_process(name)


def name_process(name: str) -> None:
    """Have this process be found by a name."""
    with contextlib.suppress(AttributeError):  # there is no such thing on this system
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"{NAME_PREFIX}{name}"[:15].encode())


def kill_descendants(spare: Collection[int] = ()) -> None:
    """Kill all processes below this one, but for those in `spare` and what is below them.

    Resource trackers are spared: they end by themselves, and clean up.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # as a rule
    _kill_until_gone(lambda: [found.pid for found in descendants(os.getpid(), spare) if not _is_tracker(found.pid)])


def kill_leftovers(spare: Collection[int] = ()) -> None:
    """Kill what is below this process, and what is marked to have been; called when it ends and has none of ours.

    Args:
        spare: Process ids of those that are about to end by themselves.
    """
    kill_descendants(spare)
    if _mark:
        kill_marked(_mark, 0.0)


def kill_marked(mark: str, grace: float) -> None:
    """Kill the processes that carry a mark: programs at once, processes of ours if they do not end in `grace` seconds.

    Blocks this thread.
    """
    deadline = time.monotonic() + grace

    def due() -> list[int]:
        late = time.monotonic() >= deadline
        return [found.pid for found in _marked(mark) if late or not found.name.startswith(NAME_PREFIX)]

    _kill_until_gone(due)
    while time.monotonic() < deadline and any(_marked(mark)):
        time.sleep(10 * PAUSE_S)
        _kill_until_gone(due)


def kill_marked_programs(mark: str) -> None:
    """Kill the programs that carry a mark, and leave processes of ours to end by themselves."""
    _kill_until_gone(lambda: [found.pid for found in _marked(mark) if not found.name.startswith(NAME_PREFIX)])


def descendants(root: int, spare: Collection[Any] = ()) -> list[Found]:
    """The processes below `root`, parents first, but for those in `spare` and what is below them."""
    by_parent: dict[int, list[Found]] = {}
    for found in _processes():
        by_parent.setdefault(found.parent, []).append(found)
    below, roots = [], [root]
    for parent in roots:
        children = [found for found in by_parent.get(parent, ()) if found.pid not in spare]
        below += children
        roots += [found.pid for found in children]
    return below


def _kill_until_gone(pids: Callable[[], list[int]]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (left := pids()) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):  # it is gone already, or another user's
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)


def _processes() -> Iterator[Found]:
    """All processes but those that have ended."""
    for pid in _pids():
        found = _find(pid)
        if found is not None:
            yield found


def _marked(mark: str) -> Iterator[Found]:
    wanted, own = f"{MARK}={mark}".encode(), os.getpid()
    for pid in _pids():
        with contextlib.suppress(OSError):  # it is another user's, or has ended
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as environ:
                if wanted not in environ.read():
                    continue
            found = _find(pid)
            if found is not None and pid != own and not _is_tracker(pid):
                yield found


def _pids() -> list[int]:
    with contextlib.suppress(OSError):  # there is no such thing on this system
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return []


def _find(pid: int) -> Found | None:
    """What there is to know of a process, None if it has ended."""
    with contextlib.suppress(OSError, ValueError):
        before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        state, parent, *_ = after.split()
        if state not in "ZX":
            return Found(pid, int(parent), before.partition("(")[2])
    return None


def _is_tracker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
