"""The set-up of every child process: what it must not share with its parent, and how it ends when its parent does.

It is imported before the environment variables below are set, so it imports nothing that reads them.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from aiosampler.runtime.breakpoints import refuse_breakpoints
from aiosampler.runtime.crash_report import prepare_crash_report
from aiosampler.runtime.deadlines import ORPHAN_S
from aiosampler.runtime.descendants import carry_mark, kill_descendants, kill_leftovers, own_processes
from aiosampler.runtime.job_signals import outlive_job_signals
from aiosampler.runtime.log_records import LogOutlet, send_records
from aiosampler.runtime.segments import track_own_segments_only

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
PARENT_ENDED = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR1  # in a fork server
_PR_SET_PDEATHSIG = 1  # see prctl(2)

#: Descriptors of this process's ends of control channels. A forked child must close its copies: while it holds one, the
#: process at the other end does not notice that this one has ended.
_own_ends: set[int] = set()


def keep_from_forks(descriptor: int) -> None:
    """Make forked children close `descriptor`."""
    _own_ends.add(descriptor)


def forget(descriptor: int) -> None:
    """Forget a descriptor that is closed, or about to be."""
    _own_ends.discard(descriptor)


def isolate(crash_report: socket.socket, mark: str, name: str, logs: LogOutlet) -> None:
    """Set up this process before its event loop is made; numerical libraries may start one thread in it.

    Args:
        crash_report: See `aiosampler.runtime.crash_report`.
        mark: See `aiosampler.runtime.descendants`.
        name: Name of this process.
        logs: See `aiosampler.runtime.log_records`.
    """
    gc.freeze()  # what a forked process has from its parent is never looked through, and stays shared with it
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    carry_mark(mark, name)
    signal.set_wakeup_fd(-1)
    for descriptor in _own_ends:  # a forked process has copies, see `_own_ends`
        os.close(descriptor)
    _own_ends.clear()
    refuse_breakpoints()
    prepare_crash_report(crash_report)
    send_records(logs)
    signal.signal(PARENT_ENDED, signal.SIG_DFL)  # a fork server handles it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # not the handler of the parent
    outlive_job_signals()
    track_own_segments_only()
    signal_when_parent_ends(signal.SIGCONT)  # it wakes a process that is stopped, so that it can end


async def enter(target: str, *args: Any) -> None:
    """Run a coroutine function given by name, so that its module is imported after the set-up.

    Args:
        target: ``"module:function"``.
        args: Its arguments.
    """
    module, name = target.split(":")
    await getattr(importlib.import_module(module), name)(*args)


def signal_when_parent_ends(number: int) -> None:
    """Ask the kernel for a signal when the thread that started this process ends; Linux only."""
    with contextlib.suppress(AttributeError):  # there is no such thing on this system
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def end_with_parent(sock: socket.socket, warn: Callable[[], None]) -> None:
    """End this process soon after the other end of `sock` has closed, even if the main thread hangs.

    Args:
        sock: Socket of the control channel; the kernel closes its other end when the parent ends, however it ends.
        warn: Called first, from another thread; then the main thread has `ORPHAN_S` seconds to end in good order.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(sock, 0)  # hang-up and errors are always reported
        while not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll()):
            pass
        warn()
        threading.Event().wait(ORPHAN_S)
        if own_processes:
            kill_descendants(spare=own_processes)  # our own children end in the same way, in the same time
        else:
            kill_leftovers()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
