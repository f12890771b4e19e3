"""The replacement for the sampler process with ``in_process=True``: everything runs in the user's process and thread.

It answers the same requests in the same order, with the same data. A batch that a sampler process would collect ahead
gets its number, slot and parameters at the same moment, but is collected only when it is asked for, or before an
evaluation.

The user's process is left as it was: random generators and torch's number of threads are set while our code runs, and
restored afterwards.
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

NAME = "user"


class _Begun(NamedTuple):
    """A batch that has its number, slot and parameters, but is not collected yet."""

    itr: int
    slot: int
    adopted: Adopted


class InProcess:
    """A `SamplerProcess` that works on a request when its answer is received, in the thread of the caller.

    The event loop is blocked meanwhile. Answers for a caller that was cancelled are kept for the next one.

    Args:
        on_phase: Called with the phases of the start.

    Attributes:
        views: Views of the arena, which is plain memory here; set before the request that starts the environments.
    """

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.phase = "ready"
        self.views: ArenaViews | None = None
        self._tell: Callable[[str], None] = lambda what: on_phase(f"in this process: {what}")
        self._requests: deque[messages.Request] = deque()
        self._answers: deque[Any] = deque()  # errors among them are raised
        self._interrupted: BaseException | None = None
        self._stopped, self._started = False, False
        self._generators, self._threads = SeparateGenerators(), 1
        self._runner: Runner | None = None
        self._abandoned: weakref.finalize[..., Any] | None = None
        self._ahead: _Begun | None = None
        self._complete: messages.Batch | None = None  # the batch ahead, if an evaluation has made it complete already
        self._last_end = 0.0  # when the last batch was complete

    @property
    def pid(self) -> int | None:
        """Process id."""
        return os.getpid()

    async def send(self, message: Any) -> None:
        """Queue a request; `receive` works on it."""
        self._requests.append(message)

    async def receive(self, timeout: float | None = None, reading: Callable[[], Reading] | None = None) -> Any:
        """Work on the next request, and return its answer; `timeout` and `reading` are ignored.

        Raises:
            SamplerError: It failed; the cause is the original exception.
            SamplerClosed: It was aborted, since the sampler is being closed.
            BaseException: `KeyboardInterrupt` and the like, and what a debugger raises to quit.
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
        """Does nothing: answers arise only in `receive`."""

    def failing(self) -> bool:
        """False: failures arise only in `receive`."""
        return False

    async def stop(self, grace: float) -> SamplerError | None:
        """Close the environments; return the error if one failed."""
        self._stopped, self.views = True, None
        self._requests.clear()
        if self._abandoned is not None:
            self._abandoned.detach()
        runner, self._runner = self._runner, None
        return None if runner is None else await outside_loop(self._close, runner)

    def abandon(self) -> None:
        """Close the environments without awaiting anything, since the event loop is closed."""
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
        self._parameters.adopt()  # for the model that is built next
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
        """Begin a batch: adopt the newest parameters for it."""
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
        """Collect the batch that has begun, if there is one, before what comes next."""
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
            BaseException: The original, if it is not an error of the user's code.
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
        """A context around all of our code, which restores the settings of the process and thread afterwards."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with (
                torch.inference_mode(False),  # the caller may be inside of an inference_mode block
                torch.enable_grad(),
                torch.autocast("cpu", enabled=False),
                self._generators.in_force(),
            ):
                yield
        finally:
            torch.set_num_threads(threads)


def _abandon(owner: int, runner: Runner) -> None:
    if os.getpid() == owner:  # not in a process that the user has forked
        warnings.warn("a sampler was not closed: its environments are closed now", ResourceWarning, stacklevel=2)
        with contextlib.suppress(Exception):  # there is no caller to raise it to
            runner.close()
