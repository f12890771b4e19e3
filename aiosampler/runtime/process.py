"""`aiomultiprocess.Process`, kept behind one module and without its faults.

- Its constructor takes the start method from a module global, and starts a manager server whose only use is to hold
  the result of `Worker`. Ours takes the method as an argument and starts no manager, so none can outlive anything.
- Its ``join`` polls every 5 ms. Ours suspends on a descriptor that becomes readable when the process ends.
- multiprocessing imports the user's ``__main__`` into spawned children, which runs scripts without a guard again. Ours
  does not: what is defined there travels by value.
"""

import asyncio
import contextlib
import errno
import functools
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing import (
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    process,
    reduction,
    spawn,
    util,
)
from typing import Any

import aiomultiprocess
from aiomultiprocess.types import Unit

from aiosampler.runtime.crash_report import UNCAUGHT, report_exception
from aiosampler.runtime.deadlines import TERMINATION_S
from aiosampler.runtime.forking import forking


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop event loop, or asyncio's where there is none; asyncio's debug mode is for the user's process alone."""
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_debug(False)
    return loop


class Process(aiomultiprocess.Process):  # type: ignore[misc] # it has no type hints
    """A coroutine that runs in a process of its own.

    Args:
        target: Coroutine function at the top level of a module, run on a uvloop event loop.
        args: Sockets, signals and the arena travel as descriptors, all else by pickle.
        name: Shown in messages and by debuggers.
        start_method: ``"spawn"``, ``"forkserver"`` or ``"fork"``.
        prepare: Called first in the child, before the event loop is made.
        prepare_args: Its arguments.
    """

    def __init__(
        self,
        *,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: tuple[Any, ...],
        name: str,
        start_method: str,
        prepare: Callable[..., None],
        prepare_args: tuple[Any, ...] = (),
    ) -> None:
        # The parent's constructor is replaced, not called: it would start the manager.
        self.unit = Unit(target, args, {}, None, None, (), new_event_loop)
        self.aio_process = _PROCESSES[start_method](target=_run, args=(self.unit, prepare, prepare_args), name=name)
        self._ended: asyncio.Event | None = None
        self._exit_descriptor = -1

    def start(self) -> None:
        """Start the process and watch it from the running event loop.

        Raises:
            OSError: The system gives no process or descriptor.
        """
        self.aio_process.start()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._exit_descriptor = _exit_descriptor(self.aio_process)
        try:
            self._loop.add_reader(self._exit_descriptor, self._on_exit)
        except BaseException:
            self.kill()
            self.forsake()
            raise

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended; its pid may be another's then."""
        return self._ended is not None and self._ended.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Suspend until the process has ended; False if `timeout` seconds were not enough."""
        assert self._ended is not None, "start() comes first"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        return self.ended

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing to a process that has ended, also where its end was not noticed yet."""
        if self.ended:
            return
        with contextlib.suppress(ProcessLookupError):  # the fork server takes its children's exit codes at any time
            if self._exit_descriptor == self.aio_process.sentinel:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(self._exit_descriptor, number)

    async def stop(self, grace: float) -> None:
        """End the process: wait `grace` seconds for it to go by itself, then terminate it, then kill it."""
        self.send_signal(signal.SIGCONT)  # it may be stopped, and could not go
        if not await self.wait(grace):
            self.terminate()
            if not await self.wait(TERMINATION_S):
                self.kill()
                await self.wait()

    def release(self) -> None:
        """Free what the ended process leaves in this one."""
        self.aio_process.join()
        self.aio_process.close()

    def forsake(self) -> None:
        """Wait for a killed process without the event loop, which is closed."""
        self._close_exit_descriptor()
        self.aio_process.join()

    def _on_exit(self) -> None:
        assert self._ended is not None
        self._loop.remove_reader(self._exit_descriptor)
        self._close_exit_descriptor()
        self.aio_process.join()  # returns at once: it has ended; takes its exit code
        self._ended.set()

    def _close_exit_descriptor(self) -> None:
        descriptor, self._exit_descriptor = self._exit_descriptor, -1  # its number may soon be another's
        if descriptor not in (-1, self.aio_process.sentinel):
            os.close(descriptor)


def _run(unit: Unit, prepare: Callable[..., None], args: tuple[Any, ...]) -> None:
    prepare(*args)
    try:
        aiomultiprocess.Process.run_async(unit)
    except BaseException as exc:
        report_exception(exc)
        raise SystemExit(UNCAUGHT) from exc  # its traceback was logged already


def _exit_descriptor(aio_process: process.BaseProcess) -> int:
    """What becomes readable when the process ends.

    The sentinel of multiprocessing is a pipe that is inherited by what the process forks, and stays open as long as
    that lives; a pidfd does not.
    """
    assert aio_process.pid is not None
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(aio_process.pid)
    return aio_process.sentinel


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


def _pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _SpawnPopen(popen_spawn_posix.Popen):
    """Spawns an interpreter; without a resource tracker, since nothing that it would track is ever made."""

    _fds: list[int]

    def _launch(self, process_obj: process.BaseProcess) -> None:
        body = _body(self, process_obj)
        with contextlib.ExitStack() as opened:
            sentinel, child_sentinel = _pipe(opened)
            child_input, body_end = _pipe(opened)
            command = spawn.get_command_line(tracker_fd=None, pipe_handle=child_input)
            self.pid = util.spawnv_passfds(
                os.fsencode(spawn.get_executable()), command, [*self._fds, child_input, child_sentinel]
            )
            self.sentinel = sentinel
            with open(body_end, "wb", closefd=False) as stream:
                stream.write(body)
            opened.pop_all()
        os.close(child_input)
        os.close(child_sentinel)
        # The child takes the end of its input for the end of this process, so it stays open until then.
        self.finalizer = util.Finalize(self, _close_all, (sentinel, body_end))


class _ForkPopen(popen_fork.Popen):
    """Forks; multiprocessing's own leaves pipes behind when the system denies the second one, or the process."""

    def _launch(self, process_obj: process.BaseProcess) -> None:
        with contextlib.ExitStack() as opened:
            sentinel, child_sentinel = _pipe(opened)
            child_input, parent_end = _pipe(opened)
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


class _ForkServerPopen(popen_forkserver.Popen):
    """Has a server of our own fork; the one of multiprocessing may be asked to import ``__main__``."""

    _fds: list[int]

    def _launch(self, process_obj: process.BaseProcess) -> None:
        body = _body(self, process_obj)
        with _start_method_left_alone():
            self.sentinel, body_end = _fork_server().connect_to_new_process(self._fds)
        self.finalizer = util.Finalize(self, _close_all, (os.dup(body_end), self.sentinel))
        with open(body_end, "wb") as stream:
            stream.write(body)
        try:
            self.pid = forkserver.read_signed(self.sentinel)
        except EOFError as exc:
            raise BlockingIOError(errno.EAGAIN, "the fork server could not fork") from exc


@functools.cache
def _fork_server() -> forkserver.ForkServer:
    """The server of this process; like multiprocessing's, it lives until the process ends."""
    server = forkserver.ForkServer()
    server.set_forkserver_preload(["aiosampler.runtime.fork_server"])
    return server


class _SpawnProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _SpawnPopen(process_obj)


class _ForkProcess(context.ForkProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _ForkPopen(process_obj)


class _ForkServerProcess(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _ForkServerPopen(process_obj)


_PROCESSES: dict[str, type[process.BaseProcess]] = {
    "spawn": _SpawnProcess,
    "forkserver": _ForkServerProcess,
    "fork": _ForkProcess,
}
