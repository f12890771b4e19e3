"""Fork servers: each has imported the modules that its children need, and forks a child for each request.

The server of the user's process is a new interpreter. It imports only packages that are safe to fork with, and none of
the user's modules: it has one thread, no event loop, no CUDA. A process of ours that starts others forks a server of
its own before it does anything else. A child of that server imports the user's modules too, and takes its place;
modules that leave behind what must not be shared, such as threads, are left out.

A server ends when its owner has closed the connection and all its children have ended, and at once when its parent
ends. `aiosampler.runtime.fork_requests` is the owner's side.
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
from aiosampler.runtime.log_records import put_handlers_aside
from aiosampler.runtime.preloading import Hindrance, import_all
from aiosampler.runtime.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import FrameType
    from typing import NoReturn

IMPATIENCE_S = 5.0  # that importing the user's modules may delay the first process; after that they are left out
LOOK_S = 1.0  # between checks whether the parent still runs, on systems that send no signal when it ends
MOST_DESCRIPTORS = 64

SERVER_NAME = "fork-server"


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Run the fork server of the user's process.

    Args:
        descriptor: Descriptor of the connection to its owner.
        modules: Names of the modules to import.
    """
    _become_server(os.getppid())
    connection = socket.socket(fileno=descriptor)
    hindrance = import_all(modules, shared=True)
    _settle(connection, [] if hindrance is None else [hindrance], usable=hindrance is None)
    if hindrance is not None:
        return
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined] # noqa: SLF001 - there is no other way
        finalizer.atexit = False  # torch's take long to unload its libraries, which no forked process needs
    # Children get output and directory with their request; the server's own would only keep old ones in use
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
    """Serve with `modules` imported; leave out those with which processes must not be forked."""
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
    """Serve from a child that imports `modules`; return None when it has ended, or at once why it must not fork."""
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
    """Wait for the result of importing; at most `IMPATIENCE_S` from when the first request has arrived."""
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
    with contextlib.suppress(OSError, ValueError):  # it needs a descriptor for each child, so it raises its limit
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Children inherit the blocked signals, and unblock them when their handlers are set, as spawned processes do.
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)

    def end_without_parent(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:  # not where only the thread that started us has ended
            os._exit(0)

    signal.signal(PARENT_ENDED, end_without_parent)
    signal_when_parent_ends(PARENT_ENDED)
    end_without_parent(PARENT_ENDED, None)


def _settle(connection: socket.socket, hindrances: list[Hindrance], *, usable: bool = True) -> None:
    settled = pickle.dumps(Settled(usable, hindrances, _own_files()))
    with contextlib.suppress(OSError):  # the owner has ended, which `_serve` finds out
        connection.sendall(NUMBER.pack(len(settled)) + settled)


def _own_files() -> dict[str, int]:
    """Modification times of the files of modules that are not installed packages: the user may edit them."""
    installed = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(__file__)))
    files = {}
    for module in tuple(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str) and not name.startswith(installed):
            with contextlib.suppress(OSError):  # a module in an archive
                files[name] = os.stat(name).st_mtime_ns
    return files


def _serve(connection: socket.socket) -> NoReturn:
    """Fork a child for each request, and send back the exit codes of those that have ended."""
    # Once for all children: each would copy the memory that this changes
    put_handlers_aside()
    importlib.invalidate_caches()  # directories may have other files when a child looks for a module
    children: dict[int, int] = {}  # process id -> the pipe that its exit code is written to
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # writes to the wake-up descriptor
    here = Surroundings.here()
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
                _fork(*request, children, here, unwanted=(connection.fileno(), woken, wake))
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[int, list[int]] | None:
    """Size and descriptors of a request, 0 if some were not received; None when the owner has closed."""
    with contextlib.suppress(ConnectionResetError):
        header, descriptors, flags, _ = socket.recv_fds(connection, NUMBER.size, MOST_DESCRIPTORS)
        if len(header) == NUMBER.size:
            (size,) = NUMBER.unpack(header)
            # 0: this process has no room for all descriptors that were sent
            return 0 if flags & socket.MSG_CTRUNC else size, descriptors
    return None


def _fork(
    size: int, descriptors: list[int], children: dict[int, int], here: Surroundings, unwanted: Collection[int]
) -> None:
    if not descriptors:  # even the pipe for the answer could not be received
        return
    status, *own = descriptors
    try:
        pid = os.fork() if size else -errno.EMFILE
    except OSError as exc:
        pid = -(exc.errno or errno.EAGAIN)
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            for descriptor in (*unwanted, *children.values(), status):
                os.close(descriptor)
            _run(size, own, here)
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
    """Collect the exit codes of children that have ended, and write each to its pipe."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, code = ended
            status = children.pop(pid, None)
            if status is not None:
                _tell(status, os.waitstatus_to_exitcode(code))
                os.close(status)


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the owner has closed its end of the pipe
        os.write(status, NUMBER.pack(number))


def _run(size: int, descriptors: list[int], here: Surroundings) -> None:
    """Run as the requested process, in the steps of multiprocessing's `spawn_main`."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        parent_sentinel, told, *inherited = descriptors
        stream = io.BytesIO(os.pread(told, size, 0))
        os.close(told)
        order: Order = pickle.load(stream)
        order.surroundings.enter(here)
        for number, index in enumerate(order.output, start=1):
            if index is not None:
                os.dup2(inherited[index], number)
                os.close(inherited[index])
        if order.tracker is not None:
            resource_tracker._resource_tracker._fd = inherited[order.tracker]  # type: ignore[attr-defined] # noqa: SLF001 - as in a spawned one
        numpy = sys.modules.get("numpy.random")
        if numpy is not None:
            numpy.seed()  # from new entropy, as if it was imported in this process
        receive_descriptors(inherited)
        current: Any = process.current_process()
        current._inheriting = True  # noqa: SLF001 - as `spawn_main` does
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
    started._bootstrap(parent_sentinel)  # noqa: SLF001 - it runs the process and ends it
