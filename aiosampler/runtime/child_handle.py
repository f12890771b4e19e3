"""A parent's handle on one child process: the process, its control channel, and the phase it last reported."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosampler.errors import ResourceError, SamplerClosed, SamplerError, WorkerDied, WorkerTimeout, exit_reason
from aiosampler.runtime.channel import Channel, ChannelClosed
from aiosampler.runtime.crash_report import UNCAUGHT, CrashReport
from aiosampler.runtime.deadlines import EXIT_S, ORPHAN_S
from aiosampler.runtime.descendants import kill_marked, kill_marked_programs, new_mark
from aiosampler.runtime.isolation import enter, forget, isolate, keep_from_forks
from aiosampler.runtime.log_records import LogInlet, own_outlet
from aiosampler.runtime.process import Process
from aiosampler.runtime.report import Failure, Phase
from aiosampler.runtime.resources import denial_of, denied
from aiosampler.runtime.source_lines import complete_notes
from aiosampler.runtime.threads import in_thread
from aiosampler.runtime.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiosampler.interfaces import Mail, Reading


class _Phases(NamedTuple):
    """The progress of a start: the phase that was reported last, and how many were reported."""

    n: int
    waiting: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        return {}


class ChildHandle:
    """Starts a child process and talks to it.

    Args:
        target: Coroutine function, at the top level of a module, that runs in it; called with its end of the control
            channel, and `args`.
        args: Further arguments.
        name: Name of the process.
        start_method: See `Process`.
        rank: Rank of a worker; None for other processes.
        preload: Modules that the child's own fork server imports, if it has one. None for a child that starts no
            processes of ours; those of other children get a moment to end by themselves after it was killed.
        on_phase: Called with the name of each phase of its start.

    Raises:
        ResourceError: The system gives no descriptors or no process.
    """

    def __init__(
        self,
        target: Callable[..., Coroutine[Any, Any, None]],
        args: tuple[Any, ...],
        *,
        name: str,
        start_method: str,
        rank: int | None = None,
        preload: tuple[str, ...] | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.rank, self.phase = name, rank, "starting the interpreter"
        self._on_phase, self._n_phases = on_phase, 0
        self._stopping = self._given_up = False
        self._mark, self._orphan_grace = new_mark(), 0.0 if preload is None else ORPHAN_S + 0.5
        self._cannot_start = f"the {name} process cannot be started"
        with denied(self._cannot_start), contextlib.ExitStack() as opened:
            self._socket, child_end = map(opened.enter_context, socket.socketpair())
            self._crash_report = CrashReport()
            opened.callback(self._crash_report.close)
            opened.callback(self._crash_report.child_end.close)
            outlet, self._logs = own_outlet(), None
            if outlet is None:  # in the user's process, which has no parent to send log records to
                self._logs = LogInlet(forks=start_method == "fork")
                opened.callback(self._logs.close)
                outlet = self._logs.outlet
                opened.callback(outlet.sock.close)
            self._descriptor = self._socket.fileno()
            keep_from_forks(self._descriptor)
            opened.callback(forget, self._descriptor)
            self._process = Process(
                target=enter,
                args=(f"{target.__module__}:{target.__qualname__}", child_end, *args),
                name=f"aiosampler-{name}",
                start_method=start_method,
                mark=self._mark,
                prepare=isolate,
                prepare_args=(self._crash_report.child_end, self._mark, name, outlet),
                preload=preload,
            )
            self._channel = Channel(self._socket)
            opened.callback(self._channel.close)
            try:
                self._process.start()
            finally:
                self._crash_report.child_end.close()
            opened.pop_all()
            if self._logs is not None:
                outlet.sock.close()
            child_end.close()
        # Kills the child if this object is dropped without `stop`, or the interpreter exits, which would wait for it.
        self._abandoned = weakref.finalize(
            self, _abandon, os.getpid(), self._process, self._crash_report, name, self._mark
        )
        # Owned: cancelled in stop(). It holds no reference to this object, or that would never be garbage collected.
        self._watching = asyncio.create_task(
            _watch(self._process, self._channel, self._descriptor, self._logs), name=f"watch-{name}"
        )

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid  # type: ignore[no-any-return] # aiomultiprocess has no type hints

    async def launched(self, timeout: float | None) -> None:
        """Suspend until the process has started, or failed to (`receive` raises that); `timeout` seconds at most."""
        await self._process.launched(timeout)

    def attach(self, mail: Mail) -> None:
        """Have some messages sent and received by `mail`, which is closed when the child has ended."""
        self._channel.attach(mail)

    async def send(self, message: Any) -> None:
        """Send a message. If the child has ended, `receive` raises that, not this call."""
        with contextlib.suppress(ChannelClosed):
            await self._channel.send(message)

    async def receive(
        self,
        timeout: float | None = None,
        read: Callable[[], Reading] | None = None,
        at: Callable[[], Reading] | None = None,
    ) -> Any:
        """Receive the next message that is no report of a phase; cancelling loses none.

        Args:
            timeout: Seconds that it may go without progress; without `read`, seconds that one phase may take.
            read: Reads its progress.
            at: Reads what is in hand in a phase, if that is named at its end, for the attributes of the error.

        Raises:
            WorkerDied: It ended.
            WorkerTimeout: It is too late.
            ResourceError: The system gave no process.
            SamplerError: What the child reports.
        """
        watch = None if timeout is None else Watch(timeout, {0: read or self._read_phase})
        while True:
            try:
                if watch is None:
                    message = await self._channel.receive()
                else:
                    async with asyncio.timeout(watch.interval):
                        message = await self._channel.receive()
                message = self._for_caller(message)
                if message is not None:
                    return message
            except TimeoutError:
                assert watch is not None
                for _, reading in watch.stuck():
                    if read is None:
                        what = f"did not get on in start_timeout={timeout} s: it is still {self.phase}"
                        named = at() if at is not None and self.phase.endswith(f" {at()}") else None
                        raise await self.too_late(what, named) from None
                    raise await self.stuck(reading, watch.limit) from None
            except ChannelClosed:
                raise await self.gone(read and read()) from None

    def _read_phase(self) -> Reading:
        return _Phases(self._n_phases)

    def receive_nowait(self) -> Any:
        """The next message that has arrived, None if there is none.

        Raises:
            ChannelClosed: The child has ended; `gone` makes the error.
            SamplerError: What the child reports.
        """
        while (message := self._channel.receive_nowait()) is not None:
            message = self._for_caller(message)
            if message is not None:
                return message
        return None

    def look(self) -> None:
        """Read what has arrived, in case the event loop has not done so yet."""
        self._channel.read()

    def notify(self, on_change: Callable[[], object]) -> None:
        """Call `on_change` whenever a message has arrived, and when none will come any more.

        The event loop keeps `on_change` alive from now on. If that refers to this object, dropping the object does not
        end the child.
        """
        self._channel.on_change = on_change

    def failing(self) -> bool:
        """Whether it has ended or reported a failure; phases that have arrived are passed to `on_phase`."""
        for phase in self._channel.take(Phase):
            self._for_caller(phase)
        return self._channel.ended or self._channel.has(Failure)

    def _for_caller(self, message: Any) -> Any:
        """Return a message for the caller; note a phase and return None; raise the error of a failure."""
        match message:
            case Phase(name):
                self.phase = name
                self._n_phases += 1
                if self._on_phase is not None:
                    self._on_phase(f"{self.name}: {name}")
                return None
            case Failure():
                complete_notes(message.error)
                raise message.error
            case _:
                return message

    async def stop(self, grace: float, *, only_closing: bool = False) -> SamplerError | None:
        """End the child within `grace` seconds and a few more; return the last failure that it reported.

        With `only_closing`, failures from before it was asked to close are ignored. What the child sends meanwhile is
        read, so it is never blocked by a full socket. A child that was found stuck is killed at once.
        """
        self._stopping = True
        self._channel.send_no_more()
        if self._given_up:
            self._process.kill()
        await self._process.stop(grace)
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        self._channel.read()
        last: SamplerError | None = None
        with contextlib.suppress(ChannelClosed):
            self._channel.end()
            while True:
                message = await self._channel.receive()
                if isinstance(message, Failure) and (message.closing or not only_closing):
                    last = message.error if isinstance(message.error, SamplerError) else last
        if self._logs is not None:
            await self._logs.drain()
            self._logs.close()
        self._abandoned.detach()
        self._crash_report.close()
        self._close_socket()
        if self._process.exitcode != 0:  # it did not end in good order, so it may have left programs behind
            await in_thread(functools.partial(kill_marked, self._mark, self._orphan_grace))
        self._process.release()
        return last

    def abandon(self) -> None:
        """Kill the child without awaiting anything, since its event loop is closed."""
        self._abandoned()
        if not self._channel.closed:
            forget(self._descriptor)
            self._channel.abandon()
        self._process.forsake()
        if self._logs is not None:
            self._logs.close()

    def _close_socket(self) -> None:
        if not self._channel.closed:
            _close_channel(self._channel, self._descriptor)

    async def stuck(self, reading: Reading, limit: float) -> WorkerTimeout:
        """Give up a child that made no progress for `limit` seconds; return the error."""
        return await self.too_late(f"is stuck in {reading} for more than step_timeout={limit} s", reading)

    async def too_late(self, what: str, reading: Reading | None = None) -> WorkerTimeout:
        """Give up a child that does not answer in time; return the error, with the stacks of its threads as a note."""
        self._given_up = True
        error = WorkerTimeout(
            f"the {self.name} process {what}",
            process=self.name,
            rank=self.rank,
            **({} if reading is None else reading.facts),
        )
        if self.pid is not None and not self._process.ended:
            stacks = await self._crash_report.stacks(self._process.send_signal)
            error.add_note(
                f"Threads of the {self.name} process:\n{stacks}"
                if stacks
                else f"The {self.name} process does not tell where it is: it is stopped, or inside the kernel"
            )
        return error

    async def gone(self, reading: Reading | None) -> WorkerDied | ResourceError | SamplerClosed:
        """Make the error for a child whose socket has closed."""
        if self._stopping:
            return SamplerClosed(f"the {self.name} process was stopped")
        # The socket closes a moment before the process has ended.
        ended = await self._process.wait(EXIT_S)
        if self._process.failure is not None:
            return denial_of(self._process.failure, self._cannot_start)
        self._given_up = self._given_up or not ended
        exitcode = self._process.exitcode if ended else None
        doing = f"while it was {self.phase}" if reading is None else f"with {reading} in hand"
        report = self._crash_report.read()
        why = f": {report.strip().splitlines()[-1]}" if report and exitcode == UNCAUGHT else ""
        error = WorkerDied(
            f"the {self.name} process ended unexpectedly by {exit_reason(exitcode)}, {doing}{why}",
            process=self.name,
            rank=self.rank,
            **({} if reading is None else reading.facts),
        )
        error.exitcode = exitcode
        if report:
            error.add_note(f"Crash report of the {self.name} process:\n{report}")
        return error


async def _watch(process: Process, channel: Channel, descriptor: int, logs: LogInlet | None) -> None:
    """Close the channel when the process ends: another process may still hold the child's end of the socket open."""
    await process.launch()
    await process.wait()
    channel.read()
    _close_channel(channel, descriptor)
    if logs is not None:
        await logs.drain()
        logs.close()


def _close_channel(channel: Channel, descriptor: int) -> None:
    forget(descriptor)  # first: the number may be reused as soon as it is closed
    channel.close()


def _abandon(owner: int, process: Process, crash_report: CrashReport, name: str, mark: str) -> None:
    if os.getpid() != owner:  # this is a process that the user forked, and the child is not its own
        return
    process.kill()
    kill_marked_programs(mark)
    crash_report.close()
    warnings.warn(f"a sampler was not closed: its {name} process was killed", ResourceWarning, stacklevel=2)
