"""The control channel: whole messages over a private socket pair, as awaitable values.

It carries a few requests and answers; data that changes all the time is in shared memory. A frame is a length of eight
bytes and a pickle of that length. Messages of a kind that is sent all the time may take another way, a `Mail`. No
half-read message is held across an `await`, so a receive can be cancelled at any time.
"""

import asyncio
import contextlib
import pickle
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from aiosampler.pickling import dumps
from aiosampler.signals.waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.interfaces import Mail

_HEADER = 8
_CHUNK = 1 << 16
_SLICE = 1 << 20  # bytes of a large message that are read before other callbacks of the event loop have their turn


class ChannelClosed(Exception):
    """The other end is closed, and everything that it sent has been received."""


class Channel:
    """One end of the control channel, on the running event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._partial = bytearray()
        self._messages: deque[bytes | memoryview] = deque()
        self._waiter = Waiter()
        self._sending = asyncio.Lock()
        self._ended = False
        self._mail: Mail | None = None
        self._mailed: deque[Any] = deque()  # what it has brought
        self.on_end: Callable[[], object] | None = None  # called when the other end has closed its side
        self.on_change: Callable[[], object] | None = None  # called when a message, or the end, has arrived
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._read, _SLICE)

    def attach(self, mail: "Mail") -> None:
        """Have some messages sent and received by `mail`, which is closed with this channel."""
        self._mail = mail
        self._loop.add_reader(mail.fileno(), self._on_mail)

    async def receive(self) -> Any:
        """The next message; cancelling loses none. One receiver at a time.

        Raises:
            ChannelClosed: There will be no more.
        """
        while (message := self.receive_nowait()) is None:
            await self._waiter
        return message

    def receive_nowait(self) -> Any:
        """The next message that has arrived, None if there is none.

        Raises:
            ChannelClosed: There will be no more.
        """
        if self._mailed:  # before messages: it was sent before a failure that is among them
            return self._mailed.popleft()
        if self._messages:
            return pickle.loads(self._messages.popleft())  # safe: only our own processes can reach the socket
        if self._ended:
            raise ChannelClosed
        return None

    def has(self, kind: type) -> bool:
        """Whether any message of this kind has arrived and was not received yet."""
        return bool(self._messages) and any(isinstance(pickle.loads(message), kind) for message in self._messages)

    def take(self, kind: type) -> list[Any]:
        """Remove and return the messages at the front of the queue that are of this kind."""
        taken = []
        while self._messages and isinstance(message := pickle.loads(self._messages[0]), kind):
            taken.append(message)
            self._messages.popleft()
        return taken

    async def send(self, message: Any) -> None:
        """Send a message without blocking the loop; one that fits the socket buffer is sent before this suspends.

        Cancelling in the middle of a large one leaves the channel unusable.

        Raises:
            ChannelClosed: The other end is gone.
        """
        if self._mail is not None and self._mail.post(message):
            return
        frame = _frame(message)
        async with self._sending:
            try:
                try:
                    sent = self._sock.send(frame)
                except BlockingIOError:
                    sent = 0
                if sent < len(frame):
                    await self._loop.sock_sendall(self._sock, memoryview(frame)[sent:])
            except OSError as exc:
                raise ChannelClosed from exc

    def send_now(self, message: Any) -> None:
        """Send a message; block this thread while the socket buffer is full. Child processes use it.

        Raises:
            ChannelClosed: The other end is gone.
        """
        if self._mail is not None and self._mail.post(message):
            return
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

    def _on_mail(self) -> None:
        if self._mail is not None:
            self._mail.clear()
            self._fetch()
            if self._waiter.waiting:
                self._waiter.resume_now()

    def _fetch(self) -> None:
        """Take what the mail has; only here, so that it comes by the event loop, as messages do."""
        if self._mail is not None and (letter := self._mail.take()) is not None:
            self._mailed.append(letter)

    def read(self) -> None:
        """Read all that has arrived, without blocking; called after the other process has ended, too."""
        self._fetch()
        self._read(None)

    def _read(self, most: int | None) -> None:
        ended, left = False, most
        try:
            while not self._ended and (left is None or left > 0):
                size = min(_CHUNK, self._missing() or _CHUNK)
                data = self._sock.recv(size)
                self._partial += data
                self._split()
                if len(data) < size:
                    ended = not data
                    break  # the buffer is empty; for later data, or the end of data, the loop calls again
                left = None if left is None else left - size
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        if ended:
            self.end()  # may call a callback that receives messages
        elif self._messages:
            self._wake()

    def _missing(self) -> int:
        """How many bytes of a message are still to come that has begun to; 0 if none has."""
        begun = len(self._partial)
        return _HEADER + int.from_bytes(self._partial[:_HEADER], "little") - begun if begun >= _HEADER else 0

    def _split(self) -> None:
        """Take the messages that are complete."""
        while len(self._partial) >= _HEADER and (more := -self._missing()) >= 0:
            if more == 0:  # as with large ones, of which no more is read: they are not copied
                self._messages.append(memoryview(self._partial)[_HEADER:])
                self._partial = bytearray()
            else:
                end = len(self._partial) - more
                self._messages.append(bytes(memoryview(self._partial)[_HEADER:end]))
                del self._partial[:end]

    def end(self) -> None:
        """Mark the data as ended: what was received so far is all there is."""
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
        """Shut down the sending side: the other end sees the end of data; receiving goes on."""
        with contextlib.suppress(OSError):  # the other end has closed already
            self._sock.shutdown(socket.SHUT_WR)

    def _wake(self) -> None:
        if self._waiter.waiting:
            self._waiter.resume_soon()
        if self.on_change is not None:
            self.on_change()

    def close(self) -> None:
        """Remove the reader from the event loop and close the socket; the other end sees the end of data."""
        self.end()
        if self._mail is not None:
            self._loop.remove_reader(self._mail.fileno())
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without the event loop, which is closed."""
        self._fetch()
        mail, self._mail = self._mail, None
        if mail is not None:
            mail.close()
        self._sock.close()


def _frame(message: Any) -> bytes:
    plain = isinstance(message, tuple)  # see `messages`; cloudpickle is several times slower
    body: bytes = pickle.dumps(message) if plain else dumps(message)
    return len(body).to_bytes(_HEADER, "little") + body
