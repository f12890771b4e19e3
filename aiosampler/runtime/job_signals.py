"""Signals that are sent to every process of a job: only the user's process acts on them, our processes go on.

Job schedulers, `timeout`, service managers and terminals send a signal to every process of a job. A user's program that
handles it wants to finish its work, save and close. So our processes run until the program closes them or ends.

Each signal gets a handler that does nothing, and is not ignored: programs inherit ignored signals, and those that the
user's code starts could then not be ended by `Popen.terminate`. For the same reason forked children get the default
action back. What the user's process ignores, as under `nohup`, stays ignored everywhere.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Any

JOB_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block these signals while a process is started, so that it gets none before it has set its handlers.

    Signals to this thread are delivered when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_job_signals() -> None:
    """Handle the signals from now on, and unblock them; called by the main thread."""
    for number in JOB_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _go_on)
            _handle_in_c(number)
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_default_in_child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)


def _handle_in_c(number: int) -> None:
    """Set a C function that does nothing as the handler, and restart interrupted system calls.

    Python's own handlers run on the small stack of `faulthandler`, which overflows when several signals come at once.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    library.signal(number, ctypes.cast(library.abs, ctypes.c_void_p))


def _go_on(number: int, frame: Any) -> None:
    """The handler that `signal.getsignal` shows; `_handle_in_c` replaces it."""


_masks: list[set[signal.Signals]] = []  # of the threads that are forking


def _hold_back() -> None:
    """Before a fork: a signal that reaches the child before `_default_in_child` would be handled and have no effect."""
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS))  # type: ignore[arg-type] # numbers are signals


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _default_in_child() -> None:
    """In a forked child: restore the default action of the signals."""
    for number in JOB_SIGNALS:
        if signal.getsignal(number) is _go_on:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    _let_through()
