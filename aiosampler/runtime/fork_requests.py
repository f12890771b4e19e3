"""Asking a fork server for processes.

Whoever starts processes has one end of a socket pair, and its server the other; nobody else can ask. Each process is
asked for by eight bytes, with the descriptors that it is to have: so asking never waits for the server, which may still
be importing. The first of them are a pipe for the answers, one that the process sees the end of its parent by, and an
anonymous file with that many bytes of pickle, which is left to the process. The server answers the process id, or the
negative number of an error, and in the end the exit code. It writes a frame of its own once, when it is ready to be
asked.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import logging
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import process, spawn
from typing import IO, TYPE_CHECKING, NamedTuple

from aiosampler.runtime.isolation import THREAD_VARIABLES
from aiosampler.runtime.job_signals import held_back
from aiosampler.runtime.preloading import Hindrance
from aiosampler.runtime.surroundings import Surroundings, fixed_surroundings
from aiosampler.runtime.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NUMBER = struct.Struct("<q")
END_S, PAUSE_S = 0.5, 0.001

log = logging.getLogger("aiosampler")


class Order(NamedTuple):
    """What a process that is asked for is told first; in the pickle, what multiprocessing tells follows.

    Attributes:
        surroundings: Of who asks.
        output: Which of its descriptors are to be its standard output and its standard error.
        tracker: Which is the resource tracker's.
        modules: To be imported by a fork server of its own; None where it needs none.
    """

    surroundings: Surroundings
    output: tuple[int | None, int | None]
    tracker: int | None
    modules: tuple[str, ...] | None


class Settled(NamedTuple):
    """What a server tells when it is ready.

    Attributes:
        usable: Whether it forks.
        hindrances: Modules that it has not imported, or for which it does not fork.
        files: Of the modules that it has imported beside those of installed packages, and when they were changed.
    """

    usable: bool
    hindrances: list[Hindrance]
    files: dict[str, int]


class ServerGone(Exception):
    """There is no fork server that can be asked."""


class ForkServer:
    """A fork server as its owner holds it; any thread may ask.

    Args:
        connection: To it.
        pid: Of the process.
        fixed: The surroundings of its start that cannot be made up for.
    """

    def __init__(self, connection: socket.socket, pid: int, fixed: tuple[object, ...] = ()) -> None:
        self.pid, self.fixed = pid, fixed
        self._connection, self._told = connection, False

    @functools.cached_property
    def settled(self) -> Settled:
        """What it told when it was ready, which is waited for."""
        try:
            length = NUMBER.unpack(self._receive(NUMBER.size))[0]
            settled: Settled = pickle.loads(self._receive(length))
        except OSError as exc:
            return Settled(False, [Hindrance("what it imports", f"ended it ({exc})")], {})
        return settled

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._connection.recv(size - len(data))
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "it is gone")
            data += chunk
        return bytes(data)

    def answers(self) -> bool:
        """Whether it is there, and has imported nothing that has changed since."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)  # it sends no more
        with contextlib.suppress(OSError):
            return not poll.poll(0) and all(os.stat(name).st_mtime_ns == at for name, at in self.settled.files.items())
        return False  # a file is gone

    def ask(self, body: bytes, descriptors: Sequence[int]) -> tuple[int, int]:
        """Ask for a process, without waiting for it.

        Args:
            body: An `Order`, and what multiprocessing tells a process.
            descriptors: That it is to have.

        Returns:
            The pipe that its process id and its exit code come from, see `process_id`, and one that it can see the end
            of this process by.

        Raises:
            ServerGone: Nobody was asked.
            OSError: The system gives no descriptor, or no more processes can be asked for at once.
        """
        with contextlib.ExitStack() as sent, contextlib.ExitStack() as kept:
            status, child_status = _pipe(kept, sent)
            parent_end, child_input = reversed(_pipe(sent, kept))
            file = sent.enter_context(_anonymous_file())
            file.write(body)
            file.flush()
            try:
                header, descriptors = NUMBER.pack(len(body)), [child_status, child_input, file.fileno(), *descriptors]
                socket.send_fds(self._connection, [header], descriptors, socket.MSG_DONTWAIT)
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise ServerGone from exc
            kept.pop_all()
        return status, parent_end

    def tell_hindrances(self) -> None:
        """Log, once, what it does without; called when it has answered, so that it is settled."""
        if not self._told:
            self._told = True
            for module, why in self.settled.hindrances:
                log.info("each process imports %s for itself: in the fork server it %s", module, why)

    def close(self) -> None:
        """Have it end as soon as all have ended that it has forked."""
        self._connection.close()


_received: list[int] = []  # by this process when it was forked


def receive_descriptors(descriptors: Sequence[int]) -> None:
    """Keep descriptors for the objects of this process that refer to them."""
    _received[:] = descriptors


class ReceivedDescriptor:
    """In place of a descriptor, in what is pickled for a process.

    Args:
        index: Among those that the process receives.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """The descriptor, which belongs to the caller now."""
        return _received[self._index]


def pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    """Both ends of a pipe, which are closed with others if something fails."""
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _anonymous_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("aiosampler-start", os.MFD_CLOEXEC), "wb")
    return tempfile.TemporaryFile()


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    """Both ends of a pipe, which are closed with different others."""
    ends = os.pipe()
    for end, opened in zip(ends, (reading, writing), strict=True):
        opened.callback(os.close, end)
    return ends


def process_id(status: int) -> int:
    """The process id that a server tells first; waits for it.

    Raises:
        OSError: There is no process.
    """
    pid = read_number(status)
    if pid is None or pid < 0:
        raise OSError(errno.EAGAIN if pid is None else -pid, "the fork server could not fork")
    return pid


def read_number(descriptor: int) -> int | None:
    """What a server says about a process; waits for it; None if the server is gone."""
    poll = select.poll()  # an event loop that watched it has taken care that reading does not wait
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    data = os.read(descriptor, NUMBER.size)  # eight bytes come at once, or none
    if not data:
        return None
    number: int = NUMBER.unpack(data)[0]
    return number


_server: ForkServer | None = None  # of this process
_refused: tuple[object, ...] | None = None  # the surroundings in which there can be none
_changing = threading.Lock()
_left: list[int] = []  # process ids of servers that are to end by themselves


async def ready_fork_server(modules: Sequence[str]) -> bool:
    """Suspend until this process has a fork server; whether it has one then.

    Where there is none, because what it is to import starts threads say, a warning says so, once.

    Args:
        modules: That it is to import, those which all processes need.
    """
    return await in_thread(functools.partial(_ready, modules))


def _ready(modules: Sequence[str]) -> bool:
    global _refused
    with _changing:
        fixed = fixed_surroundings()
        _left[:] = filter(_runs, _left)
        if _server is not None and (_server.fixed != fixed or not _server.answers()):
            _leave()
        if _server is None:
            if fixed == _refused:
                return False
            adopt(_start(modules, fixed))
            _leave_at_exit()
        assert _server is not None
        usable, hindrances, _ = _server.settled
        if not usable:
            _refused = fixed
            for module, why in hindrances:
                log.warning("processes are spawned, not forked from a server: %s %s", module, why)
            _leave()
        return usable


def _start(modules: Sequence[str], fixed: tuple[object, ...]) -> ForkServer:
    """Start the server of the user's process, which is an interpreter of its own."""
    path = [place or process.ORIGINAL_DIR for place in sys.path]  # type: ignore[attr-defined] # as it is spawned with
    command = spawn.get_command_line()
    ours, theirs = socket.socketpair()
    with theirs:
        # The path comes first: what follows may be found on it alone
        code = (
            f"import sys; sys.path[:] = {path!r}; from aiosampler.runtime.fork_server import main; "
            f"main({theirs.fileno()}, {tuple(modules)!r})"
        )
        try:
            with held_back():
                server = subprocess.Popen(
                    [*command[: command.index("-c")], "-c", code],
                    env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()
            raise
    server.returncode = 0  # it ends by itself: nobody is to ask, or to warn that it still runs
    return ForkServer(ours, server.pid, fixed)


def _leave() -> None:
    server = leave_own_server()
    if server is not None:
        _left.append(server.pid)


def _runs(pid: int) -> bool:
    """Whether a server has not ended; one that has leaves nothing behind then."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    return False


def own_server() -> ForkServer:
    """The fork server of this process.

    Raises:
        ServerGone: There is none.
    """
    if _server is None:
        raise ServerGone
    return _server


def adopt(server: ForkServer) -> None:
    """Make a server that of this process. What this process forks has no part in it."""
    global _server
    _server = server
    _forget_in_forked()


@functools.cache
def _forget_in_forked() -> None:
    os.register_at_fork(after_in_child=_forget)


@functools.cache
def _leave_at_exit() -> None:
    atexit.register(leave_own_server)


def _forget() -> None:
    global _server, _changing, _refused
    server, _server, _changing, _refused = _server, None, threading.Lock(), None
    _left.clear()
    if server is not None:
        server.close()


def leave_own_server() -> ForkServer | None:
    """Ask the server of this process no more: it ends as soon as all have ended that it has forked."""
    global _server
    server, _server = _server, None
    if server is not None:
        server.close()
    return server


@contextlib.contextmanager
def ending_own_server() -> Iterator[list[int]]:
    """Around the end of this process: the server that it has, if any, ends meanwhile, and has ended as a rule then.

    Yields:
        Its process id.
    """
    server = leave_own_server()
    yield [] if server is None else [server.pid]
    deadline = time.monotonic() + END_S
    with contextlib.suppress(ChildProcessError):
        while server is not None and os.waitpid(server.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
