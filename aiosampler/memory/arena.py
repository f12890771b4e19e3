"""The arena: one anonymous shared mapping, which processes share by its descriptor.

It has no name to unlink and needs no tracker: the kernel frees it when the last process that has it ends, however that
ends. A process gets the descriptor when it starts; the memory gets its size once the specs are known.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from aiosampler.errors import ArenaError
from aiosampler.memory.available import available_memory

_LARGEST = 1 << 60  # bytes: files may not be larger in any file system, whatever the limit


def _memory_descriptor() -> int:
    """An anonymous file in memory; on systems without (macOS), a temporary file that is already unlinked."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("aiosampler", os.MFD_CLOEXEC)
        os.fchmod(descriptor, 0o600)  # it is created with mode 0777
        return descriptor
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryFile(dir=directory) as file:  # mode 0600, unlinked before it is used
        return os.dup(file.fileno())


class Arena:
    """Owns a descriptor of the shared memory; can be pickled for a child process that is being started."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _memory_descriptor() if descriptor is None else descriptor

    def __reduce__(self) -> tuple[Callable[..., "Arena"], tuple[Any, ...]]:
        return _receive, (reduction.DupFd(self._descriptor),)

    def grow(self, total_bytes: int, dense_bytes: int) -> None:
        """Give the memory its size, and reserve its leading `dense_bytes`.

        Without the reservation a process would end by SIGBUS in the middle of a batch when memory runs out.

        Raises:
            ArenaError: The system does not have that much memory.
        """
        wanted = f"the batches need {total_bytes:,} bytes of shared memory, {dense_bytes:,} of them at once"
        advice = "use a smaller batch_T or batch_B, or smaller observations"
        available = available_memory()
        if available is not None and dense_bytes > available:
            raise ArenaError(f"{wanted}, and {available:,} bytes are free; {advice}")
        try:
            os.ftruncate(self._descriptor, total_bytes)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, dense_bytes)
        except (OSError, OverflowError) as exc:
            if isinstance(exc, OSError) and exc.errno == errno.EFBIG and dense_bytes < _LARGEST:
                advice = "shared memory counts as a file for the limit of file sizes (`ulimit -f`): raise that"
            raise ArenaError(f"{wanted}, which cannot be had ({exc}); {advice}") from exc

    def map(self, total_bytes: int) -> mmap.mmap:
        """Map the memory; the mapping exists as long as any view of it."""
        try:
            return mmap.mmap(self._descriptor, total_bytes)
        except (OSError, ValueError, OverflowError) as exc:
            raise ArenaError(f"cannot map {total_bytes:,} bytes of shared memory ({exc})") from exc

    def close(self) -> None:
        """Close the descriptor; mappings stay valid. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _receive(descriptor: Any) -> Arena:
    return Arena(descriptor.detach())
