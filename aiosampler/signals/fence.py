"""Keeping the order of writes and reads of shared memory between processes."""

import threading

_lock = threading.Lock()


def fence() -> None:
    """Have what stands before be seen by other processes before anything that follows is read or written.

    Taking a lock is an atomic operation, which orders both ways on x86.
    """
    with _lock:
        pass
