"""The only use of `aiomultiprocess.Process`, with two of its faults removed.

- Its constructor takes the start method from a module global, and starts a manager server whose only use is to hold
  the result of `Worker`. Ours takes the method as an argument and starts no manager, so none can outlive anything.
- Its ``join`` polls every 5 ms. Ours suspends on a descriptor that becomes readable when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from multiprocessing import process
from typing import TYPE_CHECKING, Any

import aiomultiprocess
from aiomultiprocess.types import Unit

from aiosampler.runtime import deadlines
from aiosampler.runtime.crash_report import UNCAUGHT, report_exception
from aiosampler.runtime.descendants import own_processes
from aiosampler.runtime.job_signals import held_back
from aiosampler.runtime.running_time import RunningTime
from aiosampler.runtime.start_methods import PROCESSES, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


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
        mark: See `aiosampler.runtime.descendants`.
        prepare: Function that is called first in the child, before the event loop is made.
        prepare_args: Its arguments.
        preload: Modules that the child's own fork server imports; None for a child that starts no processes.

    Attributes:
        failure: Why the process could not be started, if that was found after `start`.
    """

    def __init__(
        self,
        *,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: tuple[Any, ...],
        name: str,
        start_method: str,
        mark: str,
        prepare: Callable[..., None],
        prepare_args: tuple[Any, ...] = (),
        preload: tuple[str, ...] | None = None,
    ) -> None:
        # The parent's constructor is replaced, not called: it would start the manager.
        self.unit = Unit(target, args, {}, None, None, (), new_event_loop)
        self.aio_process = PROCESSES[start_method](target=_run, args=(self.unit, prepare, prepare_args), name=name)
        self.aio_process.mark, self.aio_process.preload = mark, preload
        self.aio_process.daemon = False  # or it could not be started by a daemonic process, nor have children
        self.failure: OSError | None = None
        self._ended: asyncio.Event | None = None
        self._there = asyncio.Event()
        self._unwanted = False
        self._exit_descriptor = -1

    def start(self) -> None:
        """Start the process and watch it from the running event loop; one that a server forks starts some time later.

        Raises:
            OSError: The system gives no process or descriptor.
        """
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        with held_back():
            self.aio_process.start()
        if self.pid is not None:
            self._attach()

    async def launch(self) -> None:
        """Suspend until the process has started, or it is known that it will not (see `failure`).

        Called once, by who owns the process. Cancelled, the process that may come later is not known here; it ends by
        itself, since what it would read from is closed.
        """
        assert self._ended is not None, "start() comes first"
        try:
            if self.pid is None:
                await self._answer()
                self._attach()
        except OSError as exc:
            self.failure = exc
            self.aio_process.gave_up()
            self._ended.set()
        self._there.set()

    async def _answer(self) -> None:
        clock, sentinel = RunningTime(), self.aio_process.sentinel
        readable = asyncio.Event()
        self._loop.add_reader(sentinel, readable.set)
        try:
            while not readable.is_set():
                if clock.seconds() > deadlines.FORK_S:
                    raise TimeoutError(errno.ETIMEDOUT, f"the fork server does not answer in {deadlines.FORK_S:g} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(clock.interval):
                        await readable.wait()
        finally:
            self._loop.remove_reader(sentinel)
        self.aio_process.answered()

    def _attach(self) -> None:
        own_processes.add(self.pid)
        self._exit_descriptor = _exit_descriptor(self.aio_process)
        try:
            self._loop.add_reader(self._exit_descriptor, self._on_exit)
        except BaseException:
            self.kill()
            self.forsake()
            raise
        if self._unwanted:
            self.kill()

    async def launched(self, timeout: float | None) -> None:
        """Suspend until the process has started or failed to start, or `timeout` seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._there.wait()

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended; its pid may be reused then."""
        return self._ended is not None and self._ended.is_set()

    @property
    def exitcode(self) -> int | None:
        """Exit code, negative for a signal; None while the process runs, or if it cannot be known."""
        code = self.aio_process.exitcode
        return None if code == UNKNOWN else code

    async def wait(self, timeout: float | None = None) -> bool:
        """Suspend until the process has ended; return False after `timeout` seconds, in which this process ran."""
        assert self._ended is not None, "start() comes first"
        if timeout is None:
            await self._ended.wait()
            return True
        clock = RunningTime()
        while not self.ended and (left := timeout - clock.seconds()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, clock.interval)):
                    await self._ended.wait()
        return self.ended

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing before the process has started, or after it has ended."""
        if self.ended or self._exit_descriptor < 0:
            return
        with contextlib.suppress(ProcessLookupError):  # the fork server takes its children's exit codes at any time
            if self._exit_descriptor == self.aio_process.sentinel:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(self._exit_descriptor, number)

    async def stop(self, grace: float) -> None:
        """Wait `grace` seconds for the process to end by itself, then kill it.

        No SIGTERM is sent in between: it was asked to end already, and ignores signals that its whole job may get. A
        process that even SIGKILL does not end, since it hangs in a driver say, is given up after `KILL_S` seconds.
        """
        self.send_signal(signal.SIGCONT)  # a stopped process could not end
        if not await self.wait(grace):
            self.kill()
            await self.wait(deadlines.KILL_S)

    def kill(self) -> None:
        """Kill the process, as soon as it has started; does nothing if it has ended."""
        self._unwanted = True
        self.send_signal(signal.SIGKILL)

    def release(self) -> None:
        """Free what is kept of the process here; if it has not ended, stop waiting for it."""
        if self.ended:
            self.aio_process.join()
            self.aio_process.close()
        else:
            if self._exit_descriptor >= 0:
                self._loop.remove_reader(self._exit_descriptor)
            self._leave_alone()

    def forsake(self) -> None:
        """Wait for a killed process, blocking this thread: the event loop is closed."""
        self.aio_process.join(deadlines.KILL_S)
        self._leave_alone()

    def _leave_alone(self) -> None:
        self._close_exit_descriptor()
        process._children.discard(self.aio_process)  # type: ignore[attr-defined] # noqa: SLF001 - or the interpreter would wait for it when it exits

    def _on_exit(self) -> None:
        assert self._ended is not None
        own_processes.discard(self.pid)
        self._loop.remove_reader(self._exit_descriptor)
        self._close_exit_descriptor()
        self.aio_process.join()  # returns at once, since it has ended; reads its exit code
        self._ended.set()

    def _close_exit_descriptor(self) -> None:
        descriptor, self._exit_descriptor = self._exit_descriptor, -1  # its number may be reused
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
    """A descriptor that becomes readable when the process ends.

    It is a pidfd: the sentinel of multiprocessing is a pipe, which the children that the process forks inherit and keep
    open.
    """
    assert aio_process.pid is not None
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(aio_process.pid)
    return aio_process.sentinel
