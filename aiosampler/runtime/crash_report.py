"""What a process can still say when it crashes, or when it is stuck: the Python stacks of its threads.

:mod:`faulthandler` writes them to a socket whose other end the parent has, without the interpreter's help: also when C
code crashes, or hangs with the lock of the interpreter. Nothing reads the socket before there is something to tell.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import traceback
from collections.abc import Callable

UNCAUGHT = 1  # exit code of a process that an exception ended; its traceback is the report
ANSWER_S, PAUSE_S = 0.5, 0.05  # for a dump to begin; after which it is over
_LIMIT = 1 << 16

#: Asks a process for its stacks. Environments use this one less than any other.
_SIGNAL = signal.SIGRTMAX if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

_descriptor = -1


def prepare_crash_report(sock: socket.socket) -> None:
    """Have this process write its stacks to `sock` when it crashes, and when it is asked for them."""
    sock.setblocking(False)  # what does not fit is left out; a process that crashes waits for nobody
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
        """What there is now; empty if there is nothing."""
        data = bytearray()
        with contextlib.suppress(OSError):  # there is no more
            while chunk := self._socket.recv(_LIMIT):
                data += chunk
        return data.decode(errors="replace")

    async def stacks(self, send_signal: Callable[[int], None]) -> str:
        """The stacks of whom the signal is sent to; empty if it does not answer, because it is stopped or gone."""
        send_signal(_SIGNAL)
        loop, data = asyncio.get_running_loop(), bytearray()
        with contextlib.suppress(TimeoutError, OSError):
            while chunk := await asyncio.wait_for(loop.sock_recv(self._socket, _LIMIT), PAUSE_S if data else ANSWER_S):
                data += chunk
        return data.decode(errors="replace")

    def close(self) -> None:
        """Close the parent's end; closing twice is harmless."""
        self._socket.close()
