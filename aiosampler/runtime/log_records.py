"""Log records of a sampler's processes, which the loggers of the user's process handle as if they were its own.

Each process has a handler on its root logger that sends a record as one datagram, straight to the user's process: all
of them have the same socket. Sending never waits. What the socket has no room for, since the user's event loop does not
come to read it, is dropped, and so is what a process logs beyond `BURST` records and `RATE` a second; a record of the
logger ``aiosampler`` says how many. What was sent is there when its process is not any more.

Levels are those of the user's process when the sampler starts, so that what nobody wants costs nothing; when a record
arrives, loggers, filters and handlers of the user's process decide as they are by then.
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
    from collections.abc import Iterator, Mapping

BURST, RATE = 200, 200.0  # records of one process at once, and in each second
TELL_S = 1.0  # between two records that say how many were dropped
AT_ONCE = 32  # records that are handled before the event loop goes on
_LONGEST_TEXT, _LONGEST = 10_000, 60_000  # characters of one text, bytes of a record
_SCALARS = frozenset({str, int, float, bool, type(None)})

log = logging.getLogger("aiosampler")


class LogOutlet(NamedTuple):
    """What a process needs to send its records; passed on to the processes that it starts.

    Attributes:
        sock: Whose other end the user's process reads.
        levels: Of the loggers that have one, by name; that of the root logger is "".
        disabled: The level up to which logging is disabled.
    """

    sock: socket.socket
    levels: Mapping[str, int]
    disabled: int


_outlet: LogOutlet | None = None  # of this process
_inherited: list[logging.Handler] = []  # of the process that has forked this one; closed, they might write once more


def own_outlet() -> LogOutlet | None:
    """Where this process sends its records; None in the user's process."""
    return _outlet


def send_records(outlet: LogOutlet) -> None:
    """Have the records of this process sent, and handled by no handler that a parent left here when it forked."""
    global _outlet
    ours, _outlet = _outlet, outlet
    sender = _Sender(outlet.sock)
    for logger in _loggers():
        left, logger.handlers = logger.handlers, []
        _inherited.extend(left)
        if logger.parent is None or (left and not logger.propagate):
            logger.addHandler(sender)
    if ours is None:  # else it was forked by a process of ours, and has what was set there
        for name, level in outlet.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(outlet.disabled)


def tell_dropped() -> None:
    """Say how many records were dropped, if it was not said yet; called when this process ends."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Sender):
            handler.tell_dropped()


def _loggers() -> Iterator[logging.Logger]:
    yield logging.getLogger()
    for logger in tuple(logging.getLogger().manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield logger


class _Sender(logging.Handler):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._allowed, self._looked = float(BURST), time.monotonic()
        self._dropped, self._told = 0, -TELL_S

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or count it as dropped; called with the lock of the handler."""
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._looked) * RATE)
        self._looked = now
        if self._allowed < 1:
            self._dropped += 1
            return
        self._allowed -= 1
        try:
            self._send(record)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)
        if self._dropped and now - self._told >= TELL_S:
            self.tell_dropped()

    def tell_dropped(self) -> None:
        """Send how many were dropped since it was told last."""
        with self.lock or contextlib.nullcontext():
            dropped, self._dropped, self._told = self._dropped, 0, time.monotonic()
            if dropped:
                told = log.makeRecord(
                    log.name, logging.WARNING, __file__, 0, "%d log records of this process were dropped: %s",
                    (dropped, f"it logs more than {RATE:.0f} a second, or your event loop does not come to read them"),
                    None,
                )  # fmt: skip
                self._send(told)

    def _send(self, record: logging.LogRecord) -> None:
        body = pickle.dumps((_fields(record), _handled(record)))
        if len(body) > _LONGEST:
            record = logging.makeLogRecord({**record.__dict__, "msg": record.getMessage(), "args": None})
            known = vars(logging.makeLogRecord({}))
            body = pickle.dumps(({key: value for key, value in _fields(record).items() if key in known}, ()))
        try:
            self._sock.send(body, socket.MSG_DONTWAIT)
        except OSError:  # there is no room, or the user's process is gone
            self._dropped += 1


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The attributes of a record, as numbers and text: objects would have to be known in the user's process."""
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
    """The loggers below the root whose own handlers, of this process, have the record as well."""
    names, logger = [], logging.getLogger(record.name)
    while logger.parent is not None:
        if any(not isinstance(handler, _Sender) for handler in logger.handlers):
            names.append(logger.name)
        logger = logger.parent
    return tuple(names)


class LogInlet:
    """Reads the records of a sampler's processes, on the running event loop, and has them handled here.

    Attributes:
        outlet: For the first of these processes; its socket is to be closed here when that has been started.
    """

    def __init__(self) -> None:
        self._sock, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        levels = {("" if logger.parent is None else logger.name): logger.level for logger in _loggers() if logger.level}
        self.outlet = LogOutlet(child_end, levels, logging.getLogger().manager.disable)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self.read)

    def read(self) -> bool:
        """Have some of the records handled that have arrived; return whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                body = self._sock.recv(2 * _LONGEST, socket.MSG_DONTWAIT)
            except OSError:  # there is no more
                return False
            _handle(*pickle.loads(body))  # from the process tree: the socket has no name
        return True

    async def drain(self) -> None:
        """Have all records handled that have arrived; nothing more is to come."""
        more = True
        while more:
            more = self.read()
            await asyncio.sleep(0)

    def close(self) -> None:
        """Have what has arrived handled, leave the event loop, and close the socket; closing twice is harmless."""
        if self._sock.fileno() >= 0:
            while self.read():
                pass
            if not self._loop.is_closed():
                self._loop.remove_reader(self._sock)
            self._sock.close()


def _handle(fields: dict[str, Any], handled: tuple[str, ...]) -> None:
    """Have a record handled as if it was of this process, but by no logger whose like there has done so already."""
    logger = logging.getLogger(fields["name"])
    if not logger.isEnabledFor(fields["levelno"]):
        return
    fresh = logging.makeLogRecord({})
    fields["relativeCreated"] = fresh.relativeCreated + (fields["created"] - fresh.created) * 1000
    if not (level := logging.getLevelName(fields["levelno"])).startswith("Level "):  # else it has no name here
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
