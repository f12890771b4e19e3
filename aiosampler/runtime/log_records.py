"""Log records of child processes, which the user's process handles as if they were logged there.

Each child process has a handler on its root logger that sends a record as one datagram to the user's process; all
children share one socket. Sending never blocks. A record is dropped if the socket is full, because the user's event
loop has not read it, or if its process has logged more than `BURST` records and `RATE` a second; a record of the logger
``aiosampler`` counts the dropped ones. Records arrive even if their process has ended.

The children know the levels that were set in the user's process at the start, so records below them cost nothing. When
a record arrives, the loggers, filters and handlers of the user's process apply as they are at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosampler.errors import shortened, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BURST, RATE = 200, 200.0  # records of one process at once, and in each second
TELL_S = 1.0  # between two records that say how many were dropped
AT_ONCE = 32  # records that are handled before the event loop goes on
_LONGEST_TEXT, _LONGEST = 10_000, 60_000  # characters of one text, bytes of a record
_SCALARS = frozenset({str, int, float, bool, type(None)})

log = logging.getLogger("aiosampler")


class LogOutlet(NamedTuple):
    """What a process needs to send its records; passed on to the processes that it starts.

    Attributes:
        sock: The socket whose other end the user's process reads.
        levels: Levels of the loggers that have one, by name; the name of the root logger is "".
        disabled: The level up to which logging is disabled.
        handled: Names of the loggers that have handlers in the user's process, for one that is forked from it.
    """

    sock: socket.socket
    levels: Mapping[str, int]
    disabled: int
    handled: tuple[str, ...] | None = None


_outlet: LogOutlet | None = None  # of this process
_inherited: list[logging.Handler] = []  # the parent's, if forked; kept, since closing them may write to its files
_sender: _Sender | None = None  # the only handler, since `put_handlers_aside`
_made: list[Any] = []  # weak references to all handlers that there were then


def own_outlet() -> LogOutlet | None:
    """Where this process sends its records; None in the user's process."""
    return _outlet


def send_records(outlet: LogOutlet) -> None:
    """Send the records of this process, and remove the handlers that a parent left here when it forked."""
    global _outlet
    ours, _outlet = _outlet, outlet._replace(handled=None)
    put_handlers_aside(outlet.handled).attach(outlet.sock)
    if ours is None:  # a child that is forked by one of our processes has the levels already
        for name, level in outlet.levels.items():
            if (logger := logging.getLogger(name)).level != level:
                logger.setLevel(level)
        if logging.root.manager.disable != outlet.disabled:
            logging.disable(outlet.disabled)


def put_handlers_aside(handled: Iterable[str] | None = None) -> _Sender:
    """Replace all handlers by one that sends records; nothing is done if there are no others since the last time.

    Looking at hundreds of loggers copies memory that a forked process shares with its parent. So a process that forks
    others does it for them, before it has a socket: until then, warnings are written to standard error.

    Args:
        handled: Names of the loggers that have handlers; None if they are not known.
    """
    global _sender, _made
    if _sender is None or _made != _all_handlers():
        _sender = _Sender()
        for logger in _loggers() if handled is None else {logging.root, *map(logging.getLogger, handled)}:
            left, logger.handlers = logger.handlers, []
            _inherited.extend(left)
            if logger is logging.root or (left and not logger.propagate):
                logger.addHandler(_sender)
        _made = _all_handlers()
    return _sender


def _all_handlers() -> list[Any]:
    return list(logging._handlerList)  # type: ignore[attr-defined] # noqa: SLF001 - there is no other list of them


def tell_dropped() -> None:
    """Send the count of dropped records, if it is not zero; called when this process ends."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Sender):
            handler.tell_dropped()


def _loggers() -> Iterator[logging.Logger]:
    yield logging.getLogger()
    for logger in tuple(logging.getLogger().manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield logger


class _Sender(logging.Handler):
    _sock: socket.socket | None = None

    def attach(self, sock: socket.socket) -> None:
        """Send records to `sock` from now on, and count anew how many."""
        self._sock = sock
        self._allowed, self._looked = float(BURST), time.monotonic()
        self._dropped, self._told = 0, -TELL_S

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or count it as dropped; called with the lock of the handler."""
        if self._sock is None:
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)  # as if there was no handler
            return
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._looked) * RATE)
        self._looked = now
        if self._allowed < 1:
            self._dropped += 1
            return
        self._allowed -= 1
        try:
            self._dropped += not self._sent(record)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)
        if self._dropped and now - self._told >= TELL_S:
            self.tell_dropped()

    def tell_dropped(self) -> None:
        """Send how many records were dropped since the last time."""
        if self._sock is None:
            return
        with self.lock or contextlib.nullcontext():
            dropped, self._dropped, self._told = self._dropped, 0, time.monotonic()
            if dropped:
                told = log.makeRecord(
                    log.name, logging.WARNING, __file__, 0, "%d log records of this process were dropped: %s",
                    (dropped, f"it logs more than {RATE:.0f} a second, or your event loop does not come to read them"),
                    None,
                )  # fmt: skip
                self._dropped += 0 if self._sent(told) else dropped

    def _sent(self, record: logging.LogRecord) -> bool:
        """Send a record; return False if there is no room for it."""
        body = pickle.dumps((_fields(record), _handled(record)))
        if len(body) > _LONGEST:
            record = logging.makeLogRecord({**record.__dict__, "msg": record.getMessage(), "args": None})
            known = vars(logging.makeLogRecord({}))
            body = pickle.dumps(({key: value for key, value in _fields(record).items() if key in known}, ()))
        assert self._sock is not None
        try:
            self._sock.send(body, socket.MSG_DONTWAIT)
        except OSError:  # the socket is full, or the user's process has ended
            return False
        return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The attributes of a record as numbers and text: objects may be of classes that the user's process lacks."""
    fields = dict(record.__dict__)
    if not isinstance(record.msg, str) or not _is_plain(record.args):
        fields["msg"], fields["args"] = shortened(record.getMessage(), _LONGEST_TEXT), None
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None
    for key, value in fields.items():
        if isinstance(value, str):
            fields[key] = shortened(value, _LONGEST_TEXT)
        elif not _is_plain(value):
            fields[key] = _text(value)
    return fields


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return type(value) in _SCALARS


def _text(value: Any) -> str:
    try:
        return shortened(str(value), _LONGEST_TEXT)
    except Exception as exc:
        return f"(it cannot be shown: {text_of(exc)})"


def _handled(record: logging.LogRecord) -> tuple[str, ...]:
    """The loggers below the root whose own handlers, in this process, also handle the record."""
    names, logger = [], logging.getLogger(record.name)
    while logger.parent is not None:
        if any(not isinstance(handler, _Sender) for handler in logger.handlers):
            names.append(logger.name)
        logger = logger.parent
    return tuple(names)


class LogInlet:
    """Reads the records of child processes on the running event loop, and passes them to the loggers of this process.

    Args:
        forks: Whether the first child is forked from this process, now.

    Attributes:
        outlet: For the first child; close its socket here once that child is started.
    """

    def __init__(self, *, forks: bool = False) -> None:
        self._sock, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        loggers = {"" if logger.parent is None else logger.name: logger for logger in _loggers()}
        levels = {name: logger.level for name, logger in loggers.items() if logger.level}
        handled = tuple(name for name, logger in loggers.items() if logger.handlers) if forks else None
        self.outlet = LogOutlet(child_end, levels, logging.root.manager.disable, handled)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self.read)

    def read(self) -> bool:
        """Handle up to `AT_ONCE` records that have arrived; return whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                body = self._sock.recv(2 * _LONGEST, socket.MSG_DONTWAIT)
            except OSError:  # none left
                return False
            _handle(*pickle.loads(body))  # safe: the socket has no name, so only our own processes can write to it
        return True

    async def drain(self) -> None:
        """Handle all records that have arrived; called when all senders have ended."""
        more = True
        while more:
            more = self.read()
            await asyncio.sleep(0)

    def close(self) -> None:
        """Handle what has arrived, remove the reader from the event loop and close the socket; idempotent."""
        if self._sock.fileno() >= 0:
            while self.read():
                pass
            if not self._loop.is_closed():
                self._loop.remove_reader(self._sock)
            self._sock.close()


def _handle(fields: dict[str, Any], handled: tuple[str, ...]) -> None:
    """Handle a record as if it was logged here, except by the loggers in `handled`, which did so in its process."""
    logger = logging.getLogger(fields["name"])
    if not logger.isEnabledFor(fields["levelno"]):
        return
    fresh = logging.makeLogRecord({})
    fields["relativeCreated"] = fresh.relativeCreated + (fields["created"] - fresh.created) * 1000
    if not (level := logging.getLevelName(fields["levelno"])).startswith("Level "):  # the level has a name here
        fields["levelname"] = level
    record = logging.makeLogRecord(fields)
    if not handled:
        logger.handle(record)
    elif logger.filter(record):
        above: logging.Logger | None = logger
        while above is not None:
            for handler in () if above.name in handled else above.handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
            above = above.parent if above.propagate else None
