"""How processes are started: those of multiprocessing, without what they do to a user's process.

- multiprocessing imports the user's ``__main__`` into spawned children, which runs scripts without a guard again. Ours
  does not: what is defined there travels by value.
- A child of ours has as much to do with the resource tracker as its parent has: it uses that of the parent, if there
  is one, and starts none.
- A host may ignore SIGCHLD, or take the exit codes of all its children; they are not known then, which is no error.
- The daemonic processes of a pool may have children of ours, which end with their parents by themselves.
"""

import atexit
import contextlib
import io
import logging
import multiprocessing
import os
import pickle
import subprocess
from collections.abc import Iterator
from multiprocessing import (
    connection,
    context,
    popen_fork,
    popen_spawn_posix,
    process,
    reduction,
    resource_tracker,
    spawn,
    util,
)
from typing import Any

from aiosampler.runtime.descendants import MARK, kill_leftovers, own_processes
from aiosampler.runtime.fork_requests import (
    Order,
    ReceivedDescriptor,
    ServerGone,
    ending_own_server,
    own_server,
    pipe,
    process_id,
    read_number,
)
from aiosampler.runtime.forking import forking
from aiosampler.runtime.surroundings import Surroundings

log = logging.getLogger("aiosampler")

UNKNOWN = 256  # in place of the exit code of a process that was not left for us to ask about


@contextlib.contextmanager
def _start_method_left_alone() -> Iterator[None]:
    """Around what asks for the start method of the user's process, which decides for the default if none was chosen."""
    undecided = multiprocessing.get_start_method(allow_none=True) is None
    try:
        yield
    finally:
        if undecided:
            multiprocessing.set_start_method(None, force=True)


def _preparation(name: str) -> dict[str, Any]:
    """What multiprocessing tells a child about its parent, less the user's main module and start method."""
    with _start_method_left_alone():
        preparation = spawn.get_preparation_data(name)
    ours = ("init_main_from", "start_method")
    return {key: value for key, value in preparation.items() if not key.startswith(ours)}


def _body(popen: Any, process_obj: process.BaseProcess) -> memoryview:
    body = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        reduction.dump(_preparation(process_obj.name), body)
        reduction.dump(process_obj, body)
    finally:
        context.set_spawning_popen(None)
    return body.getbuffer()


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _OwnChild:
    """Asks for the exit code of a child, which somebody else may have taken."""

    pid: int
    returncode: int | None

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, flag)
            except ChildProcessError:
                self.returncode = UNKNOWN
            else:
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class _SpawnPopen(_OwnChild, popen_spawn_posix.Popen):
    """Spawns an interpreter, which has the resource tracker of this process, if there is one by now."""

    _fds: list[int]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        self._interpreter.returncode = super().poll(flag)  # so that it does not ask, too
        return self.returncode

    def _launch(self, process_obj: Any) -> None:
        body = _body(self, process_obj)
        with contextlib.ExitStack() as opened:
            sentinel, child_sentinel = pipe(opened)
            child_input, body_end = pipe(opened)
            tracker = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined] # noqa: SLF001 - to ask would start one
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_input)
            passed = [*self._fds, child_input, child_sentinel, *([] if tracker is None else [tracker])]
            self._interpreter = subprocess.Popen(
                command,
                executable=spawn.get_executable(),
                env={**os.environ, MARK: process_obj.mark},
                pass_fds=passed,
            )
            self.pid = self._interpreter.pid
            self.sentinel = sentinel
            with open(body_end, "wb", closefd=False) as stream:
                stream.write(body)
            opened.pop_all()
        os.close(child_input)
        os.close(child_sentinel)
        # The child takes the end of its input for the end of this process, so it stays open until then.
        self.finalizer = util.Finalize(self, _close_all, (sentinel, body_end))


class _ForkPopen(_OwnChild, popen_fork.Popen):
    """Forks; multiprocessing's own leaves pipes behind when the system denies the second one, or the process."""

    def _launch(self, process_obj: process.BaseProcess) -> None:
        with contextlib.ExitStack() as opened:
            sentinel, child_sentinel = pipe(opened)
            child_input, parent_end = pipe(opened)
            with forking:
                self.pid = os.fork()
            if self.pid == 0:
                code = 1
                try:
                    os.close(sentinel)
                    os.close(parent_end)
                    code = process_obj._bootstrap(parent_sentinel=child_input)  # type: ignore[attr-defined] # noqa: SLF001 - what its own does
                finally:
                    os._exit(code)
            opened.pop_all()
        _close_all(child_sentinel, child_input)
        self.finalizer = util.Finalize(self, _close_all, (sentinel, parent_end))
        self.sentinel = sentinel


class _ForkServerPopen(popen_fork.Popen):
    """Has the fork server of this process fork, which takes its time: there is no process id before `answered`."""

    method = "forkserver"
    DupFd = ReceivedDescriptor
    pid: int | None  # type: ignore[assignment] # as said

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._fds: list[int] = []
        self.pid = None
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child receive a descriptor; its index among them."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: Any) -> None:
        self._server = server = own_server()
        tracker = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined] # noqa: SLF001 - as above
        order = Order(
            Surroundings.here(),
            (self._passed(1), self._passed(2)),
            None if tracker is None else self.duplicate_for_child(tracker),
            process_obj.preload,
        )
        body = pickle.dumps(order) + _body(self, process_obj)
        self.sentinel, parent_end = server.ask(body, self._fds)
        own_processes.add(server.pid)
        self.finalizer = util.Finalize(self, _close_all, (self.sentinel, parent_end))

    def answered(self) -> None:
        """Take the answer of the server, once the sentinel is readable.

        Raises:
            OSError: There is no process.
        """
        self.pid = process_id(self.sentinel)
        self._server.tell_hindrances()

    def _passed(self, output: int) -> int | None:
        with contextlib.suppress(OSError):  # it is closed
            os.fstat(output)
            return self.duplicate_for_child(output)
        return None

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and self.pid is not None:
            if flag == os.WNOHANG and not connection.wait([self.sentinel], 0):
                return None
            code = read_number(self.sentinel)
            self.returncode = UNKNOWN if code is None else code
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if self.pid is None and timeout is not None and connection.wait([self.sentinel], timeout):
            with contextlib.suppress(OSError):
                self.answered()
        code: int | None = super().wait(timeout)
        return code


class _OwnProcess(process.BaseProcess):
    """A process object of multiprocessing.

    Attributes:
        mark: That its process is started with, see `aiosampler.runtime.descendants`.
        preload: Modules that a fork server of its own is to import, None where it starts no processes; used where it is
            forked by a server itself.
    """

    _config: dict[str, Any]
    _popen: Any
    mark = ""
    preload: tuple[str, ...] | None = None

    def start(self) -> None:
        config = process.current_process()._config  # type: ignore[attr-defined] # noqa: SLF001 - what its own `start` reads
        daemonic = config.pop("daemon", None)
        try:
            super().start()
        finally:
            if daemonic is not None:
                config["daemon"] = daemonic

    def answered(self) -> None:
        """See `_ForkServerPopen`."""
        self._popen.answered()

    def gave_up(self) -> None:
        """There is no process: nobody is to wait for it."""
        self._popen.returncode = UNKNOWN

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc] # what runs in the child
        kill_leftovers()
        return code


class _CleanProcess(_OwnProcess):
    """A process that has nothing of who started it, and thus all to end by itself."""

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Run, and end the process without taking the interpreter to pieces, which takes torch half a second."""
        code: int = super(_OwnProcess, self)._bootstrap(parent_sentinel)  # type: ignore[misc] # as above
        try:
            atexit._run_exitfuncs()  # noqa: SLF001 - what the end of the interpreter calls
        except BaseException:  # was printed
            code = code or 1
        util._flush_std_streams()  # type: ignore[attr-defined] # noqa: SLF001 - what its own `_bootstrap` does
        with ending_own_server() as server:
            kill_leftovers(spare=server)  # last: the functions above may end programs in a better way
        os._exit(code)


class _SpawnProcess(_CleanProcess, context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _SpawnPopen(process_obj)


class _ForkServerProcess(_CleanProcess):
    _start_method = "spawn"  # for what the user's code starts with multiprocessing

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        try:
            return _ForkServerPopen(process_obj)
        except ServerGone:
            log.warning("there is no fork server any more: the %s process is spawned", process_obj.name)
            return _SpawnPopen(process_obj)


class _ForkProcess(_OwnProcess, context.ForkProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _ForkPopen(process_obj)


PROCESSES: dict[str, type[_OwnProcess]] = {
    "spawn": _SpawnProcess,
    "forkserver": _ForkServerProcess,
    "fork": _ForkProcess,
}
