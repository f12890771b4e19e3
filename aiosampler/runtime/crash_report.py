"""The Python stacks of a process that crashes or is stuck.

:mod:`faulthandler` writes them to a socket whose other end the parent holds. It needs no running interpreter, so this
works when C code crashes, or hangs while it holds the GIL. The parent reads the socket only after a crash or a timeout.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import traceback
from collections.abc import Callable

UNCAUGHT = 1  # exit code of a process that ended by an exception; the traceback is in the report
ANSWER_S, PAUSE_S = 0.5, 0.05  # longest wait for a dump to begin; the pause after which it is complete
_LIMIT = 1 << 16

#: The signal that asks a process for its stacks; few programs use it for something else.
_SIGNAL = signal.SIGRTMAX if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

_descriptor = -1


def prepare_crash_report(sock: socket.socket) -> None:
    """Make this process write its stacks to `sock` when it crashes, and when it gets the signal above."""
    sock.setblocking(False)  # what does not fit is cut: a process that crashes must not wait for a reader
    descriptor = sock.detach()  # for as long as the process lives
    os.set_inheritable(descriptor, False)
    faulthandler.enable(descriptor)
    faulthandler.register(_SIGNAL, descriptor, chain=False)
    global _descriptor
    _descriptor = descriptor


def report_exception(exc: BaseException) -> None:
    """Write the traceback of the exception that ends this process."""
    with contextlib.suppress(OSError):
        os.write(_descriptor, "".join(traceback.format_exception(exc)).encode()[-_LIMIT:])


class CrashReport:
    """The parent's end of the socket; the child's end is to be passed on, and closed."""

    def __init__(self) -> None:
        self._socket, self.child_end = socket.socketpair()
        self._socket.setblocking(False)

    def read(self) -> str:
        """What has been written so far; empty if nothing was."""
        data = bytearray()
        with contextlib.suppress(OSError):  # nothing left to read
            while chunk := self._socket.recv(_LIMIT):
                data += chunk
        return data.decode(errors="replace")

    async def stacks(self, send_signal: Callable[[int], None]) -> str:
        """Send the signal and return the stacks; empty if the process does not answer, being stopped or ended."""
        send_signal(_SIGNAL)
        loop, data = asyncio.get_running_loop(), bytearray()
        with contextlib.suppress(TimeoutError, OSError):
            while chunk := await asyncio.wait_for(loop.sock_recv(self._socket, _LIMIT), PAUSE_S if data else ANSWER_S):
                data += chunk
        return data.decode(errors="replace")

    def close(self) -> None:
        """Close the parent's end; closing twice is harmless."""
        self._socket.close()
