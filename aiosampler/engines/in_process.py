"""What stands for the sampler process where there is none: the serial sampler in the user's own process and thread.

It answers the same requests in the same order, with the same data. In one thread nothing is collected ahead: the batch
ahead has its number, its slot and its parameters settled when the one before is complete, as in a sampler process, and
is collected when it is asked for, or when an evaluation is to come after it.

The user's process is left as it was: our code has global random generators and a number of torch threads of its own,
which are in force while it runs.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

import torch

from aiosampler.agents.parameters import Reader
from aiosampler.collectors.collector import Aborted
from aiosampler.engines.probe import probe
from aiosampler.errors import SamplerClosed, SamplerError, WorkerError
from aiosampler.runtime.breakpoints import debugger_quit
from aiosampler.runtime.outside_loop import NoRunningLoop, outside_loop
from aiosampler.workers import messages
from aiosampler.workers.failures import describe
from aiosampler.workers.local_acting import local_runner
from aiosampler.workers.random_streams import SeparateGenerators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiosampler.agents.parameters import Adopted
    from aiosampler.interfaces import Reading
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.runner import Runner

NAME = "sampler"


class _Begun(NamedTuple):
    """A batch that is settled and not collected yet."""

    itr: int
    slot: int
    adopted: Adopted


class InProcess:
    """A `SamplerProcess` that does what it is asked for when the answer is received, in the thread that receives it.

    The event loop stands still meanwhile. What a caller that was cancelled has not fetched is kept for the next one.

    Args:
        on_phase: Told what is being done.

    Attributes:
        views: Of the memory that batches are recorded in; set before the request that starts the environments.
    """

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.phase = "ready"
        self.views: ArenaViews | None = None
        self._tell: Callable[[str], None] = lambda what: on_phase(f"{NAME}: {what}")
        self._requests: deque[messages.Request] = deque()
        self._answers: deque[Any] = deque()  # errors among them, which are raised
        self._interrupted: BaseException | None = None
        self._stopped, self._started = False, False
        self._generators, self._threads = SeparateGenerators(), 1
        self._runner: Runner | None = None
        self._abandoned: weakref.finalize[..., Any] | None = None
        self._ahead: _Begun | None = None
        self._complete: messages.Batch | None = None  # the batch ahead, where an evaluation came after it
        self._last_end = 0.0  # of a batch

    @property
    def pid(self) -> int | None:
        """Process id."""
        return os.getpid()

    async def send(self, message: Any) -> None:
        """Take a request; it is answered when the answer is received."""
        self._requests.append(message)

    async def receive(self, timeout: float | None = None, reading: Callable[[], Reading] | None = None) -> Any:
        """Do what was asked for next, and return the answer; nobody could tell that it takes too long.

        Raises:
            SamplerError: It failed; the cause is the original exception.
            SamplerClosed: It is not wanted any more.
            BaseException: What is no failure, such as `KeyboardInterrupt`, or that a debugger was told to quit.
        """
        while not self._answers:
            if self._interrupted is not None:
                kind = type(self._interrupted).__name__
                raise WorkerError(f"the sampler was interrupted by {kind} and cannot go on") from self._interrupted
            if self._stopped or not self._requests:
                raise SamplerClosed("the sampler was closed")
            await outside_loop(self._serve_next)
        answer = self._answers.popleft()
        if isinstance(answer, SamplerError):
            raise answer
        return answer

    def notify(self, on_change: Callable[[], object]) -> None:
        """Nothing comes from here but what a caller receives."""

    def failing(self) -> bool:
        """Nothing fails but in a call."""
        return False

    async def stop(self, grace: float) -> SamplerError | None:
        """Close the environments; return what failed in that."""
        self._stopped, self.views = True, None
        self._requests.clear()
        if self._abandoned is not None:
            self._abandoned.detach()
        runner, self._runner = self._runner, None
        return None if runner is None else await outside_loop(self._close, runner)

    def abandon(self) -> None:
        """Close the environments, where the event loop that they were used from is closed."""
        self._stopped, self.views, self._runner = True, None, None
        if self._abandoned is not None:
            with NoRunningLoop():
                self._abandoned()

    def _serve_next(self) -> None:
        if self._stopped or not self._requests:
            return
        request = self._requests.popleft()
        try:
            try:
                with self._as_guest():
                    self._answers.append(self._answer(request))
            except Exception as exc:
                self._answers.append(self._described(exc))
        except BaseException as exc:
            self._interrupted = exc
            raise

    def _answer(self, request: messages.Request) -> Any:
        match request:
            case messages.Probe():
                self._options: Options = request.options
                self._probed = probe(request.options, self._tell)
                return self._probed
            case messages.Start():
                self._start(request)
                return messages.Started()
            case messages.Collect(itr, slot):
                return self._collect(itr, slot)
            case messages.Evaluate():
                return self._evaluate(request)
            case messages.Call():
                assert self._runner is not None
                self._finish_ahead()
                return self._runner.call(request, self._described)
            case _:
                assert_never(request)

    def _start(self, start: messages.Start) -> None:
        assert self.views is not None
        self._threads = start.affinity.torch_threads
        torch.set_num_threads(self._threads)
        self._parameters = Reader(self.views.parameters)
        self._parameters.adopt()  # for the model that is built now
        options = self._options
        self._runner = local_runner(
            options=options,
            probed=self._probed,
            start=start,
            views=self.views,
            share=messages.Share(0, range(options.batch.B), range(options.eval_n_envs)),
            phase=self._tell,
        )
        self._abandoned = weakref.finalize(self, _abandon, os.getpid(), self._runner)
        self._runner.start()
        self._started = True

    def _collect(self, itr: int, slot: int) -> messages.Batch:
        batch, self._complete = self._complete, None
        if batch is None:
            batch = self._fill(self._ahead or self._begin(itr, slot))
        self._ahead = self._begin(itr + 1, 1 - slot) if self._options.overlap else None
        return batch

    def _begin(self, itr: int, slot: int) -> _Begun:
        """Settle a batch, with the parameters that are the newest now."""
        adopted = self._parameters.adopt()
        self._tell(f"collecting batch {itr} into slot {slot} with policy version {adopted.version}")
        return _Begun(itr, slot, adopted)

    def _fill(self, begun: _Begun) -> messages.Batch:
        assert self._runner is not None
        assert self.views is not None
        itr, slot, adopted = begun
        began = time.perf_counter()
        self.views.step_clocks[slot].fill(0)
        try:
            episodes = self._runner.collect(messages.Collect(itr, slot, adopted.buffer))
        except Aborted:
            raise SamplerClosed("the batch is not wanted any more") from None
        ended = time.perf_counter()
        seconds, self._last_end = ended - max(began, self._last_end), ended
        return messages.Batch(itr, slot, adopted.version, [episodes], seconds)

    def _finish_ahead(self) -> None:
        """Collect the batch that is begun, if there is one: what comes now comes after it."""
        if self._ahead is not None:
            begun, self._ahead = self._ahead, None
            self._complete = self._fill(begun)

    def _evaluate(self, request: messages.Evaluate) -> messages.Evaluated:
        assert self._runner is not None
        self._finish_ahead()
        self._tell(f"evaluating after batch {request.itr}")
        buffer = self._parameters.adopt().buffer
        with contextlib.suppress(Aborted):
            return messages.Evaluated([self._runner.evaluate(request._replace(parameters=buffer))])
        return messages.Evaluated([])

    def _close(self, runner: Runner) -> SamplerError | None:
        try:
            with self._as_guest():
                runner.close()
        except Exception as exc:
            return self._described(exc)
        return None

    def _described(self, exc: BaseException) -> SamplerError:
        """The error that a sampler process would report, with the original exception as its cause.

        Raises:
            BaseException: The original, if it is no failure.
        """
        cause = exc.__cause__ or exc
        if debugger_quit(cause) or isinstance(cause, KeyboardInterrupt | SystemExit):
            raise cause from None
        error = describe(exc, NAME, starting=not self._started)
        if error is not exc:
            error.__cause__ = cause
        return error

    @contextlib.contextmanager
    def _as_guest(self) -> Iterator[None]:
        """Around everything of ours: what is set for the whole process, or where the caller is, is put back."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with (
                torch.inference_mode(False),  # what follows may be built or called within a block of the caller's
                torch.enable_grad(),
                torch.autocast("cpu", enabled=False),
                self._generators.in_force(),
            ):
                yield
        finally:
            torch.set_num_threads(threads)


def _abandon(owner: int, runner: Runner) -> None:
    if os.getpid() == owner:  # not in a process that the user forked
        warnings.warn("a sampler was not closed: its environments are closed now", ResourceWarning, stacklevel=2)
        with contextlib.suppress(Exception):  # nobody is there to hear of it
            runner.close()
