"""The control channel: whole messages over a private socket pair, as awaitable values.

Nothing of a step goes through it; there are a few messages for each batch. A frame is eight bytes of length, and that
many of pickle. Reading never holds half a message across an `await`, so a receive can be cancelled at any time.
"""

import asyncio
import contextlib
import pickle
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from aiosampler.pickling import dumps

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = 8
_CHUNK = 1 << 16


class ChannelClosed(Exception):
    """The other end is gone, and all that it had sent has been received."""


class Channel:
    """One end of the control channel, on the running event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._partial = bytearray()
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._sending = asyncio.Lock()
        self._ended = False
        self.on_end: Callable[[], object] | None = None  # called when the other end sends no more
        self.on_change: Callable[[], object] | None = None  # called when there is a message, or no more
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self.read)

    async def receive(self) -> Any:
        """The next message; cancelling loses none. One receiver at a time.

        Raises:
            ChannelClosed: There will be no more.
        """
        while (message := self.receive_nowait()) is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return message

    def receive_nowait(self) -> Any:
        """The next message that has arrived, None if there is none.

        Raises:
            ChannelClosed: There will be no more.
        """
        if self._messages:
            return pickle.loads(self._messages.popleft())  # from the process tree: the socket has no name
        if self._ended:
            raise ChannelClosed
        return None

    def has(self, kind: type) -> bool:
        """Whether a message of a kind has arrived."""
        return any(isinstance(pickle.loads(message), kind) for message in self._messages)

    def take(self, kind: type) -> list[Any]:
        """The messages of a kind that have arrived before any other."""
        taken = []
        while self._messages and isinstance(message := pickle.loads(self._messages[0]), kind):
            taken.append(message)
            self._messages.popleft()
        return taken

    async def send(self, message: Any) -> None:
        """Send a message without blocking the loop; small ones leave before this suspends.

        Cancelling in the middle of a large one leaves the channel unusable.

        Raises:
            ChannelClosed: The other end is gone.
        """
        async with self._sending:
            try:
                await self._loop.sock_sendall(self._sock, _frame(message))
            except OSError as exc:
                raise ChannelClosed from exc

    def send_now(self, message: Any) -> None:
        """Send a message, blocking this thread where the other end has not read enough; for the children.

        Raises:
            ChannelClosed: The other end is gone.
        """
        rest = memoryview(_frame(message))
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._sock, select.POLLOUT)
                poll.poll()
            except OSError as exc:
                raise ChannelClosed from exc

    def read(self) -> None:
        """Take in what has arrived; called by the loop, when the other process has ended, and by who expects it."""
        ended = False
        try:
            while not self._ended:
                data = self._sock.recv(_CHUNK)
                self._partial += data
                if len(data) < _CHUNK:
                    ended = not data
                    break  # that was all; if there is more by now, or the end, the loop calls again
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        while len(self._partial) >= _HEADER:
            end = _HEADER + int.from_bytes(self._partial[:_HEADER], "little")
            if len(self._partial) < end:
                break
            self._messages.append(bytes(self._partial[_HEADER:end]))
            del self._partial[:end]
        if ended:
            self.end()  # which may have somebody look for messages at once
        elif self._messages:
            self._wake()

    def end(self) -> None:
        """Expect no more data."""
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._sock.fileno())
            if self.on_end is not None:
                self.on_end()
            self._wake()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._sock.fileno() < 0

    @property
    def ended(self) -> bool:
        """Whether no more data will come."""
        return self._ended

    def send_no_more(self) -> None:
        """Let the other end find the end of data, and go on receiving."""
        with contextlib.suppress(OSError):  # it is gone already
            self._sock.shutdown(socket.SHUT_WR)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.on_change is not None:
            self.on_change()

    def close(self) -> None:
        """Leave the loop and close the socket, which the other end sees as the end of data."""
        self.end()
        self._sock.close()


def _frame(message: Any) -> bytes:
    plain = isinstance(message, tuple)  # see `messages`; cloudpickle is several times slower
    body: bytes = pickle.dumps(message) if plain else dumps(message)
    return len(body).to_bytes(_HEADER, "little") + body
