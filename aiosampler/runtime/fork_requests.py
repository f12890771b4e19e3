"""The owner's side of a fork server: requesting processes.

The owner and its server have the two ends of a socket pair, so no other process can send requests. A request is eight
bytes with the descriptors for the new process, so sending it never waits for the server, which may still be importing.
The first descriptors are a pipe for the answers, a pipe by which the process notices the end of its parent, and an
anonymous file with a pickle for the process, whose size the eight bytes are. The server answers with the process id, or
the negative number of an error, and later with the exit code. Once, when it is ready, it sends a `Settled`.
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

from aiosampler.errors import WorkerDied, WorkerTimeout
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
    """The first object in the pickle for a process; the data of multiprocessing follow.

    Attributes:
        surroundings: The surroundings of the process that requests it.
        output: Indices of the descriptors for its standard output and standard error.
        tracker: Index of the descriptor of the resource tracker; None if there is none.
        modules: Modules that its own fork server imports; None if it needs no server.
    """

    surroundings: Surroundings
    output: tuple[int | None, int | None]
    tracker: int | None
    modules: tuple[str, ...] | None


class Settled(NamedTuple):
    """The message of a server that is ready.

    Attributes:
        usable: Whether it can fork.
        hindrances: Modules that it has not imported, or that keep it from forking, and why.
        files: Files of imported modules that are not installed packages, with their modification times.
    """

    usable: bool
    hindrances: list[Hindrance]
    files: dict[str, int]


class ServerGone(Exception):
    """There is no fork server that can be used."""


class ForkServer:
    """The owner's handle on a fork server; thread-safe.

    Args:
        connection: The socket to the server.
        pid: Process id of the server.
        fixed: The `fixed_surroundings` in which it was started.
    """

    def __init__(self, connection: socket.socket, pid: int, fixed: tuple[object, ...] = ()) -> None:
        self.pid, self.fixed = pid, fixed
        self._connection, self._told = connection, False

    @functools.cached_property
    def settled(self) -> Settled:
        """The message of the server that it is ready; blocks until it has arrived."""
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
        """Whether it still runs, and no file that it has imported was changed since."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)  # only the end of data can arrive
        with contextlib.suppress(OSError):
            return not poll.poll(0) and all(os.stat(name).st_mtime_ns == at for name, at in self.settled.files.items())
        return False  # a file was removed

    def ask(self, body: bytes, descriptors: Sequence[int]) -> tuple[int, int]:
        """Request a process, without waiting for it.

        Args:
            body: The pickles of an `Order`, and of the data of multiprocessing.
            descriptors: Descriptors for the process.

        Returns:
            The pipe for its process id and exit code, see `process_id`, and the pipe whose end shows it that this
            process has ended.

        Raises:
            ServerGone: The server does not run any more; nothing was requested.
            OSError: The system has no descriptors left, or too many requests are pending.
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
        """Log, once, which modules it has not imported; called after it has answered a request, so that it is ready."""
        if not self._told:
            self._told = True
            for module, why in self.settled.hindrances:
                log.info("each process imports %s for itself: in the fork server it %s", module, why)

    def close(self) -> None:
        """Close the connection; the server ends when all its children have ended."""
        self._connection.close()


_received: list[int] = []  # descriptors that this process got when it was forked


def receive_descriptors(descriptors: Sequence[int]) -> None:
    """Keep descriptors for the `ReceivedDescriptor`s that refer to them."""
    _received[:] = descriptors


class ReceivedDescriptor:
    """Stands for a descriptor in a pickle for a process.

    Args:
        index: Index among the descriptors that the process receives.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return the descriptor, which belongs to the caller from now on."""
        return _received[self._index]


def pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    """Both ends of a new pipe, which `opened` closes."""
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _anonymous_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("aiosampler-start", os.MFD_CLOEXEC), "wb")
    return tempfile.TemporaryFile()


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    """Both ends of a new pipe, each of which another stack closes."""
    ends = os.pipe()
    for end, opened in zip(ends, (reading, writing), strict=True):
        opened.callback(os.close, end)
    return ends


def process_id(status: int) -> int:
    """Read the first answer of a server, the process id; blocks until it is there.

    Raises:
        OSError: The server could not fork, or has ended.
    """
    pid = read_number(status)
    if pid is None or pid < 0:
        raise OSError(errno.EAGAIN if pid is None else -pid, "the fork server could not fork")
    return pid


def read_number(descriptor: int) -> int | None:
    """Read an answer of a server about a process; blocks until it is there; None if the server has ended."""
    poll = select.poll()  # an event loop has made the descriptor non-blocking
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    data = os.read(descriptor, NUMBER.size)  # eight bytes are written to a pipe all at once
    if not data:
        return None
    number: int = NUMBER.unpack(data)[0]
    return number


_server: ForkServer | None = None  # the server of this process
_refused: tuple[object, ...] | None = None  # the surroundings in which a server was not usable
_changing = threading.Lock()
_left: list[int] = []  # process ids of servers that were closed, and end by themselves


async def ready_fork_server(modules: Sequence[str]) -> bool:
    """Suspend until this process has a fork server; return False if there can be none.

    That is so if a module that it must import starts threads, for example; a warning is logged once.

    Args:
        modules: Names of the modules that it imports, which all processes need.
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
    """Start the server of the user's process, which is a new interpreter."""
    path = [place or process.ORIGINAL_DIR for place in sys.path]  # type: ignore[attr-defined] # as if spawned
    command = spawn.get_command_line()
    ours, theirs = socket.socketpair()
    with theirs:
        # The path is set first, since modules may be found only on it
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
    server.returncode = 0  # it ends by itself; keeps subprocess from waiting for it, or warning that it still runs
    return ForkServer(ours, server.pid, fixed)


def _leave() -> None:
    server = leave_own_server()
    if server is not None:
        _left.append(server.pid)


def _runs(pid: int) -> bool:
    """Whether a closed server still runs; if it has ended, collect its exit code."""
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
    """Set the server of this process. Children that this process forks do not inherit it."""
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
    """Close the server of this process; it ends when all its children have ended."""
    global _server
    server, _server = _server, None
    if server is not None:
        server.close()
    return server


def leave_after(failure: BaseException) -> None:
    """Have processes forked from a new server from now on, if one of those before has died or hung.

    What was wrong with it may be in what all of them were forked from. The server ends when all its children have.
    """
    if isinstance(failure, WorkerDied | WorkerTimeout) and _changing.acquire(blocking=False):  # else one is being made
        try:
            _leave()
        finally:
            _changing.release()


@contextlib.contextmanager
def ending_own_server() -> Iterator[list[int]]:
    """A context around the end of this process, during which its server, if it has one, ends.

    Yields:
        A list with the process id of the server; empty if there is none.
    """
    server = leave_own_server()
    yield [] if server is None else [server.pid]
    deadline = time.monotonic() + END_S
    with contextlib.suppress(ChildProcessError):
        while server is not None and os.waitpid(server.pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
