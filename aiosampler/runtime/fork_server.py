"""Fork servers: processes that have imported once what all processes of a sampler need, and fork these when asked.

The one of the user's process is an interpreter of its own. It has imported packages that are safe to be forked with,
and nothing of the user's: it has one thread, no event loop, no CUDA. A process that starts others gets a server by
being forked twice, before anything else happens in it. That one, or one that is forked from it, imports the modules
that the user's objects come from as well; where what they leave behind must not be shared, it is the one without that
forks.

A server ends when nobody can ask it any more and all that it has forked have ended, and at once when its parent has.
See `aiosampler.runtime.fork_requests` for how it is asked.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import pickle
import resource
import select
import signal
import socket
import sys
import weakref
from multiprocessing import process, resource_tracker, spawn
from typing import TYPE_CHECKING, Any

from aiosampler.runtime.descendants import name_process
from aiosampler.runtime.fork_requests import NUMBER, ForkServer, Order, Settled, adopt, receive_descriptors
from aiosampler.runtime.isolation import PARENT_ENDED, signal_when_parent_ends
from aiosampler.runtime.job_signals import JOB_SIGNALS
from aiosampler.runtime.preloading import Hindrance, import_all

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import FrameType
    from typing import NoReturn

IMPATIENCE_S = 5.0  # that modules of the user may take from when a process is wanted, before all do without
LOOK_S = 1.0  # between looks whether its parent is still there, where the system does not tell
MOST_DESCRIPTORS = 64

SERVER_NAME = "fork-server"


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Run the fork server of the user's process.

    Args:
        descriptor: Of the connection to it.
        modules: To import.
    """
    _become_server(os.getppid())
    connection = socket.socket(fileno=descriptor)
    hindrance = import_all(modules, shared=True)
    _settle(connection, [] if hindrance is None else [hindrance], usable=hindrance is None)
    if hindrance is not None:
        return
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined] # noqa: SLF001 - there is no other way
        finalizer.atexit = False  # torch takes its libraries to pieces, which need not be done in each process
    # What the user's process has for its output may be something else soon, and its directory may go
    nowhere = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
    os.chdir("/")
    _serve(connection)


def _fork_own_server(modules: Sequence[str]) -> ForkServer:
    """Fork a server for this process, which has just been forked itself."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _become_server(parent)
            _serve_with(theirs, [module for module in modules if module not in sys.modules])
        finally:
            os._exit(1)
    theirs.close()
    return ForkServer(ours, pid)


def _serve_with(connection: socket.socket, modules: Sequence[str]) -> None:
    """Have modules imported in a process that serves in place of this one; without those that are in the way."""
    hindrances: list[Hindrance] = []
    while modules:
        hindrance = _try_to_serve_with(connection, modules, hindrances)
        if hindrance is None:
            return
        hindrances.append(hindrance)
        modules = [module for module in modules if module not in hindrance.module.split(", ")]
    _settle(connection, hindrances)
    _serve(connection)


def _try_to_serve_with(
    connection: socket.socket, modules: Sequence[str], hindrances: list[Hindrance]
) -> Hindrance | None:
    """Return what speaks against forking with modules; None when the process is done that has served with them."""
    verdict, telling = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(verdict)
            _become_server(parent)
            found = import_all(modules, shared=False)
            os.write(telling, pickle.dumps(found))
            os.close(telling)
            if found is None:
                _settle(connection, hindrances)
                _serve(connection)
        finally:
            os._exit(1)
    os.close(telling)
    said = _wait_for_verdict(verdict, connection)
    os.close(verdict)
    if not said:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return Hindrance(", ".join(modules), "did not get through importing")
    hindrance: Hindrance | None = pickle.loads(said)
    if hindrance is None:
        connection.close()
    os.waitpid(pid, 0)
    return hindrance


def _wait_for_verdict(verdict: int, connection: socket.socket) -> bytes:
    """Wait for what a process says that imports; a moment only, once a process is wanted of the server."""
    poll = select.poll()
    poll.register(verdict, select.POLLIN)
    poll.register(connection, select.POLLIN)
    if verdict not in dict(poll.poll()):
        poll.unregister(connection)
        if not poll.poll(1000 * IMPATIENCE_S):
            return b""
    return os.read(verdict, 1 << 16)


def _become_server(parent: int) -> None:
    name_process(SERVER_NAME)
    with contextlib.suppress(OSError, ValueError):  # it needs some for each process, whatever whose limit is
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What it forks begins with these held back, like what is spawned, until it is ready for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)

    def end_without_parent(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:  # it may have been but a thread of it
            os._exit(0)

    signal.signal(PARENT_ENDED, end_without_parent)
    signal_when_parent_ends(PARENT_ENDED)
    end_without_parent(PARENT_ENDED, None)


def _settle(connection: socket.socket, hindrances: list[Hindrance], *, usable: bool = True) -> None:
    settled = pickle.dumps(Settled(usable, hindrances, _own_files()))
    with contextlib.suppress(OSError):  # there is nobody any more, which is found next
        connection.sendall(NUMBER.pack(len(settled)) + settled)


def _own_files() -> dict[str, int]:
    """The files of modules that are no part of an installation, and their times: they may be changed, and reloaded."""
    installed = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(__file__)))
    files = {}
    for module in tuple(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str) and not name.startswith(installed):
            with contextlib.suppress(OSError):  # it is part of an archive
                files[name] = os.stat(name).st_mtime_ns
    return files


def _serve(connection: socket.socket) -> NoReturn:
    """Fork when asked, and tell how those have ended that were forked."""
    children: dict[int, int] = {}  # the pipe of each that tells of it
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that it wakes
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(connection, select.POLLIN)
    asked, parent = True, os.getppid()
    while (asked or children) and os.getppid() == parent:
        ready = dict(poll.poll(None if asked else 1000 * LOOK_S))
        if woken in ready:
            os.read(woken, 1 << 16)
            _tell_ends(children)
        if asked and connection.fileno() in ready:
            request = _receive(connection)
            if request is None:
                poll.unregister(connection)
                asked = False
            else:
                _fork(*request, children, unwanted=(connection.fileno(), woken, wake))
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    """A request, empty if not all of its descriptors could come, and those that came; None where there will be none."""
    with contextlib.suppress(ConnectionResetError):
        header, descriptors, flags, _ = socket.recv_fds(connection, NUMBER.size, MOST_DESCRIPTORS)
        if len(header) == NUMBER.size:
            (size,) = NUMBER.unpack(header)
            body = bytearray()
            while len(body) < size and (chunk := connection.recv(size - len(body))):
                body += chunk
            if len(body) == size and not flags & socket.MSG_CTRUNC:
                return bytes(body), descriptors
            if len(body) == size:  # there are no descriptors left for those that were sent
                return b"", descriptors
    return None


def _fork(body: bytes, descriptors: list[int], children: dict[int, int], unwanted: Collection[int]) -> None:
    if not descriptors:  # nobody can be told
        return
    status, *own = descriptors
    try:
        pid = os.fork() if body else -errno.EMFILE
    except OSError as exc:
        pid = -(exc.errno or errno.EAGAIN)
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for descriptor in (*unwanted, *children.values(), status):
                os.close(descriptor)
            _run(body, own)
        finally:
            os._exit(1)
    if pid > 0:
        children[pid] = status
    for descriptor in own:
        os.close(descriptor)
    _tell(status, pid)
    if pid < 0:
        os.close(status)


def _tell_ends(children: dict[int, int]) -> None:
    """Take the exit codes of all that have ended, and tell them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, code = ended
            status = children.pop(pid, None)
            if status is not None:
                _tell(status, os.waitstatus_to_exitcode(code))
                os.close(status)


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody wants to know
        os.write(status, NUMBER.pack(number))


def _run(body: bytes, descriptors: list[int]) -> None:
    """Be the process that was asked for; as what multiprocessing runs in one that is spawned."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        parent_sentinel, *inherited = descriptors
        stream = io.BytesIO(body)
        order: Order = pickle.load(stream)
        order.surroundings.enter()
        for number, index in enumerate(order.output, start=1):
            if index is not None:
                os.dup2(inherited[index], number)
                os.close(inherited[index])
        if order.tracker is not None:
            resource_tracker._resource_tracker._fd = inherited[order.tracker]  # type: ignore[attr-defined] # noqa: SLF001 - as in a spawned one
        importlib.invalidate_caches()
        numpy = sys.modules.get("numpy.random")
        if numpy is not None:
            numpy.seed()  # as if it was imported now, here
        receive_descriptors(inherited)
        current: Any = process.current_process()
        current._inheriting = True  # noqa: SLF001 - what its own does
        try:
            spawn.prepare(pickle.load(stream))
            if order.modules is not None:
                adopt(_fork_own_server(order.modules))
            started = pickle.load(stream)
        finally:
            del current._inheriting  # noqa: SLF001 - as above
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    started._bootstrap(parent_sentinel)  # noqa: SLF001 - which ends it
