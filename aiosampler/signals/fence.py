"""Keeping the order of writes and reads of shared memory between processes."""

import platform
import threading

_lock = threading.Lock()
_STRONG = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def fence() -> None:
    """Have what stands before be seen by other processes before anything that follows is read or written.

    Taking a lock is an atomic operation, which orders both ways on x86. Elsewhere it lets no later access before it,
    and releasing it no earlier one behind it, so an earlier write and a later read may still change places in between.
    Twice is enough there: on AArch64 no acquire overtakes a release that stands before it (Arm Architecture Reference
    Manual, B2.3, "Barrier-ordered-before").
    """
    with _lock:
        pass
    if not _STRONG:
        with _lock:
            pass
