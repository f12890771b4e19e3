"""The start methods, built on those of multiprocessing. They differ in four points.

- multiprocessing imports the user's ``__main__`` in spawned children, which runs scripts without a guard again. Our
  children do not: what is defined there is sent by value.
- A child uses the resource tracker of its parent, if there is one, and never starts one.
- If the user's process ignores SIGCHLD, or collects the exit codes of all its children, exit codes are unknown, which
  is no error.
- Daemonic processes, such as those of a pool, may start our processes, which end by themselves with their parents.
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

UNKNOWN = 256  # in place of the exit code of a process that something else has waited for


@contextlib.contextmanager
def _start_method_left_alone() -> Iterator[None]:
    """A context around code that reads multiprocessing's start method, which would fix the default if none is set."""
    undecided = multiprocessing.get_start_method(allow_none=True) is None
    try:
        yield
    finally:
        if undecided:
            multiprocessing.set_start_method(None, force=True)


def _preparation(name: str) -> dict[str, Any]:
    """The preparation data of multiprocessing for a child, without the user's main module and start method."""
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
    """Polls the exit code of a child, which other code of the user's process may have collected."""

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
    """Spawns an interpreter, which gets the resource tracker of this process, if there is one."""

    _fds: list[int]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        self._interpreter.returncode = super().poll(flag)  # keeps subprocess from polling as well
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
        # Kept open: when it closes, the child takes that for the end of this process.
        self.finalizer = util.Finalize(self, _close_all, (sentinel, body_end))


class _ForkPopen(_OwnChild, popen_fork.Popen):
    """Forks. Multiprocessing's own class leaks pipes if the system denies the second pipe or the process."""

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
    """Lets the fork server of this process fork, without waiting for it: there is no process id before `answered`."""

    method = "forkserver"
    DupFd = ReceivedDescriptor
    pid: int | None  # type: ignore[assignment] # None until then

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._fds: list[int] = []
        self.pid = None
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Send a descriptor to the child; return its index among those that the child receives."""
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
        """Read the answer of the server, when the sentinel is readable.

        Raises:
            OSError: The server could not fork, or has ended.
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
        mark: The mark that the process gets, see `aiosampler.runtime.descendants`.
        preload: Modules that its own fork server imports, None if it starts no processes; used only if it is forked by
            a server itself.
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
        """Called if there will be no process, so that multiprocessing does not wait for it."""
        self._popen.returncode = UNKNOWN

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc] # runs in the child
        kill_leftovers()
        return code


class _CleanProcess(_OwnProcess):
    """A process that was not forked from its parent, so it must run all steps of its own exit."""

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Run the process and end it, without finalising the interpreter, which takes half a second with torch."""
        code: int = super(_OwnProcess, self)._bootstrap(parent_sentinel)  # type: ignore[misc] # as above
        try:
            atexit._run_exitfuncs()  # noqa: SLF001 - called when an interpreter exits
        except BaseException:  # it was printed
            code = code or 1
        util._flush_std_streams()  # type: ignore[attr-defined] # noqa: SLF001 - what its own `_bootstrap` does
        with ending_own_server() as server:
            kill_leftovers(spare=server)  # last, since the functions above may end programs in good order
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
