"""A memory fence: ordering writes and reads of shared memory between processes."""

import platform
import threading

#: Taking this lock is a `fence` where `WRITES_STAY_IN_ORDER`; for code that must not take the time for a call.
fence_lock = threading.Lock()
_STRONG = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")

#: Whether other processes see this process's writes in the order in which they were made, without a fence.
WRITES_STAY_IN_ORDER = _STRONG


def fence() -> None:
    """Make earlier writes visible to other processes before anything later is read or written.

    On x86, taking a lock is a full barrier. On other processors, later accesses cannot move before the acquire, nor
    earlier ones after the release, but an earlier write and a later read may still be reordered between the two. There
    it is done twice: on AArch64 an acquire cannot move before an earlier release (Arm Architecture Reference Manual,
    B2.3, "Barrier-ordered-before").
    """
    with fence_lock:
        pass
    if not _STRONG:
        with fence_lock:
            pass
