"""Killing the programs that the user's code has started in our processes, however our processes end.

- A process of ours kills its descendants when it ends, after it has closed what it had open.
- Each process of ours carries a mark in its environment variables, which every program below it inherits; the marks of
  our processes below it begin with its own. When a process was killed, its parent kills what carries its mark, and the
  sampler process, which ends last, does so for all. That also finds programs that have lost their parent or left their
  session.

Not found are: programs that have cleared their environment variables and detached themselves; processes without a
program of their own, forked below a forked process that was killed; detached programs, if all of our processes were
killed at once; and everything on systems without ``/proc``.
"""

import contextlib
import ctypes
import os
import resource
import signal
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MARK = "AIOSAMPLER_PROCESS"
NAME_PREFIX = "aio:"
LIMIT_S = 1.0  # to kill programs that keep starting new ones
PAUSE_S = 0.005
_PR_SET_NAME = 15  # see prctl(2)

#: Process ids of our processes that this one has started, including fork servers.
own_processes: set[int] = set()

_mark = ""  # of this process


class Found(NamedTuple):
    """A process in ``/proc``."""

    pid: int
    parent: int
    name: str


def new_mark() -> str:
    """A mark for a child of this process: the mark of this process, and a part of its own."""
    return f"{_mark}/{uuid.uuid4().hex[:12]}"


def carry_mark(mark: str, name: str) -> None:
    """Give this process a mark, which the programs below it inherit, and a name."""
    global _mark
    _mark = os.environ[MARK] = mark
    own_processes.clear()  # copied from the parent, if this process was forked
    name_process(name)


def name_process(name: str) -> None:
    """Set the name of this process that the system shows."""
    with contextlib.suppress(AttributeError):  # there is no such thing on this system
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"{NAME_PREFIX}{name}"[:15].encode())


def kill_descendants(spare: Collection[int] = ()) -> None:
    """Kill all processes below this one, but for those in `spare` and what is below them.

    Resource trackers are spared: they end by themselves, and clean up.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # the usual case
    _kill_until_gone(lambda: [found.pid for found in descendants(os.getpid(), spare) if not _is_tracker(found.pid)])


def kill_leftovers(spare: Collection[int] = ()) -> None:
    """Kill what is below this process, or was as its mark tells; called when it ends and has no processes of ours.

    Args:
        spare: Process ids of those that are about to end by themselves.
    """
    kill_descendants(spare)
    if _mark and _may_have_had_children():
        kill_marked(_mark, 0.0)


def _may_have_had_children() -> bool:
    """Whether this process may have started something: not if it has no children, and no child that ended was counted.

    The system adds up the time and memory of those whose exit codes were asked for. It is worth asking, since looking
    through all processes for the mark takes longer than all else that a worker does to end.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return any(resource.getrusage(resource.RUSAGE_CHILDREN)) or signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL


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
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
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
        with contextlib.suppress(OSError):  # it belongs to another user, or has ended
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
