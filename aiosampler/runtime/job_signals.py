"""Signals that reach a whole job: they are for the user's process to decide about, and none of ours ends by them.

Batch systems, `timeout`, service managers and terminals send a signal to every process of a job. A user who handles it
wants one more batch, to save, to close. So ours go on until their owner closes them or is gone.

They handle these signals and do nothing, where they could ignore them: what is ignored stays so in the programs that an
environment starts, which could not be ended by `Popen.terminate` then. For the same reason a forked child gets the
default back. What the user's process ignores, as under `nohup`, stays ignored everywhere.
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
    """Around the start of a process: it gets these signals no sooner than when it is ready for them.

    Those that come to this thread meanwhile, come when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_job_signals() -> None:
    """Have this process outlive the signals from now on, also those that were held back; called by its main thread."""
    for number in JOB_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _go_on)
            _handle_in_c(number)
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_default_in_child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)


def _handle_in_c(number: int) -> None:
    """Have the C library call a function that does nothing, and begin again what was interrupted.

    Python's own handlers run on the small stack of `faulthandler`, which overflows when several signals come at once.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    library.signal(number, ctypes.cast(library.abs, ctypes.c_void_p))


def _go_on(number: int, frame: Any) -> None:
    """Stand for `_handle_in_c`, for those who ask Python for the handler."""


_masks: list[set[signal.Signals]] = []  # of the threads that are forking


def _hold_back() -> None:
    """Or one that comes to a child before it has the default back would be handled, and never end it."""
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS))  # type: ignore[arg-type] # numbers are signals


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _default_in_child() -> None:
    """Leave a process that was forked as if nobody had handled the signals."""
    for number in JOB_SIGNALS:
        if signal.getsignal(number) is _go_on:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    _let_through()
