"""Counting signals between processes: an eventfd, or a pipe where there is none.

A signal holds a number of posts. `take` returns all posts since the last time, so if each of n workers posts once, the
waiter wakes at most n times, and usually once.

=========  ==============================  =========================
           eventfd                         pipe
=========  ==============================  =========================
post       add 1 to the kernel's counter   write one byte
take       read the counter, set it to 0   read all bytes there are
=========  ==============================  =========================
"""

import contextlib
import functools
import os
import select
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

_POST = (1).to_bytes(8, "little")


class Signal:
    """A counter that another process can wait for; can be pickled for a child process that is being started.

    Args:
        read: Descriptor to wait on; None makes a new signal.
        write: Descriptor to post to, the same one for an eventfd.
    """

    def __init__(self, read: int | None = None, write: int | None = None) -> None:
        if read is None or write is None:
            read, write = _signal_descriptors()
        self._read, self._write = read, write
        self._poll: select.poll | None = None

    def __reduce__(self) -> tuple[Callable[..., "Signal"], tuple[Any, ...]]:
        if self._read == self._write:
            return _receive, (reduction.DupFd(self._read),)
        return _receive, (reduction.DupFd(self._read), reduction.DupFd(self._write))

    def fileno(self) -> int:
        """The descriptor that is readable while there are posts."""
        return self._read

    def post(self) -> None:
        """Add one post; never blocks and never loses a wake-up."""
        if self._read == self._write:
            os.write(self._write, _POST)
        else:
            with contextlib.suppress(BlockingIOError):  # the pipe is full of posts, so the reader will wake anyway
                os.write(self._write, b"\0")

    def take(self) -> int:
        """The posts since the last time, 0 if there are none; does not block, unless the descriptor was set to.

        A blocking one also returns 0 if a signal handler has run meanwhile.
        """
        try:
            return os.eventfd_read(self._read) if self._read == self._write else len(os.read(self._read, 65536))
        except (BlockingIOError, InterruptedError):  # `eventfd_read` is not restarted after a signal handler
            return 0

    def reader(self) -> Callable[[], object]:
        """`take` for a descriptor that blocks, without Python code in it where possible.

        It may raise `InterruptedError`, after a signal handler has run. It must not be called after `close`.
        """
        return functools.partial(os.eventfd_read, self._read) if self._read == self._write else self.take

    def wait(self, timeout: float | None = None) -> int:
        """Block this thread until there are posts and take them; 0 after `timeout` seconds."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._read, select.POLLIN)
        return self.take() if self._poll.poll(None if timeout is None else timeout * 1000) else 0

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        for descriptor in {self._read, self._write} - {-1}:
            os.close(descriptor)
        self._read = self._write = -1


def _signal_descriptors() -> tuple[int, int]:
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return descriptor, descriptor
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _receive(read: Any, write: Any = None) -> Signal:
    descriptor = read.detach()
    return Signal(descriptor, descriptor if write is None else write.detach())
