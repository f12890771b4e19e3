"""Samplers for programs that are not asynchronous: the same calls, which block until they are done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from aiosampler.errors import SamplerClosed, SamplerError
from aiosampler.samplers.base import AsyncSamplerMixin
from aiosampler.samplers.state import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

    from aiosampler.samplers.samples import Samples

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncSampler, P], R]:
    """A blocking version of a sampler's coroutine method."""

    @functools.wraps(method)
    def call(self: SyncSampler, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._run(getattr(self._sampler, method.__name__), *args, **kwargs)
        return result

    return call


class SyncSampler:
    """A sampler for a program that is not asynchronous, which ``sampler.sync()`` makes.

    ::

        with AsyncCpuSampler("CartPole-v1", agent=agent, batch_T=32, batch_B=16).sync() as sampler:
            for samples in sampler:
                train(model, samples)
                sampler.publish(model)

    The processes of the sampler collect the next batch while your code works on this one. Each call runs an event loop
    in your thread until it is done, so no other event loop may be running there. Calls of several threads are done one
    after the other, and a batch is valid until any of them asks for the next; what waits when another thread closes the
    sampler raises `SamplerClosed`. Attributes that are not listed here are those of the sampler: `agent`, `options`,
    `publish`, `statistics` and so on.

    Args:
        sampler: A sampler that was not started yet.
    """

    def __init__(self, sampler: AsyncSamplerMixin) -> None:
        self._sampler = sampler
        self._runner: asyncio.Runner | None = None
        self._left = False
        # One thread at a time runs the loop: the call of another would be left behind in it, and take a batch with it.
        # It may be taken again by its thread, which a signal handler may have interrupted; the runner refuses that.
        self._turn = threading.RLock()
        self._closing: asyncio.Task[None] | None = None  # for a call of another thread, which it ends

    def __enter__(self) -> Self:
        if self._runner is not None:
            raise SamplerError("`with` starts a sampler once")
        _refuse_a_running_loop()
        self._owner = os.getpid()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # without changing the event loop policy
        try:
            self._run(self._sampler.__aenter__)
        except BaseException:
            try:
                self._runner.run(self._sampler.aclose())  # if it was interrupted when it had started
            finally:
                self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forked():
            self._left = True
            return
        self._interrupt()
        with self._turn:
            try:
                self._run(self._sampler.__aexit__, kind, error, trace)
            finally:
                self._leave()

    def __iter__(self) -> Iterator[Samples]:
        return self

    def __next__(self) -> Samples:
        try:
            return self._run(self._sampler.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    obtain_samples = _blocking(AsyncSamplerMixin.obtain_samples)
    evaluate_agent = _blocking(AsyncSamplerMixin.evaluate_agent)
    call = _blocking(AsyncSamplerMixin.call)
    get_attr = _blocking(AsyncSamplerMixin.get_attr)
    set_attr = _blocking(AsyncSamplerMixin.set_attr)
    set_reset_options = _blocking(AsyncSamplerMixin.set_reset_options)

    def close(self) -> None:
        """End the sampler before the end of the ``with`` block; as `AsyncSamplerMixin.aclose`. Idempotent."""
        if self._left:
            return
        self._open_runner()
        self._interrupt()
        try:
            self._run(self._sampler.aclose)
        except SamplerClosed:
            if not self._left:  # or another thread has left the block meanwhile
                raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self._sampler, name)
        if inspect.iscoroutinefunction(value):
            raise AttributeError(f"{name}() is awaited, in programs that are asynchronous; here there is none of it")
        return value

    def _run(self, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a coroutine function, and run the event loop until it is done.

        Raises:
            SamplerClosed: The ``with`` block was left, or not entered.
            SamplerError: An event loop is running in this thread.
            KeyboardInterrupt: The user has interrupted it.
        """
        self._open_runner()
        _refuse_a_running_loop()
        cancelled = 0

        async def call() -> R:
            nonlocal cancelled
            result = await function(*args, **kwargs)
            task = asyncio.current_task()
            cancelled = 0 if task is None else task.cancelling()
            return result

        with self._turn:
            result = self._open_runner().run(call())  # again: another thread may have left the block meanwhile
        if cancelled:  # by the runner, which raises for it only where the call is still waiting for something
            raise KeyboardInterrupt
        return result

    def _forked(self) -> bool:
        """Whether this is a process that was forked from the one with the sampler.

        It must not touch the event loop: both have the same epoll in the kernel, and what is removed from it by one is
        never seen by the other, which would wait for ever.
        """
        if self._runner is None or os.getpid() == self._owner:
            return False
        self._runner.get_loop()._closed = True  # type: ignore[attr-defined] # noqa: SLF001 - or its finalizer closes it
        return True

    def _open_runner(self) -> asyncio.Runner:
        if self._left:
            raise closed(self._sampler.statistics().error)
        if self._runner is None:
            raise SamplerClosed("the sampler is not started: use `with`")
        if self._forked():
            raise SamplerError(
                f"the sampler belongs to the process that started it, {self._owner}, and this is one that was forked "
                "from it: use it there, or make another here"
            )
        return self._runner

    def _interrupt(self) -> None:
        """End the call that another thread is waiting for, if there is one, by closing the sampler."""
        if self._turn.acquire(blocking=False):
            self._turn.release()
        elif self._runner is not None and not self._left:
            with contextlib.suppress(RuntimeError):  # that thread has closed it right now
                self._runner.get_loop().call_soon_threadsafe(self._close_beside)

    def _close_beside(self) -> None:
        self._closing = asyncio.ensure_future(self._sampler.aclose())  # owned: the caller closes it again, and waits

    def _leave(self) -> None:
        self._left = True
        assert self._runner is not None
        self._runner.close()


def _refuse_a_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SamplerError(
        "sync() is for programs without an event loop, and one is running here, as in a notebook: leave sync() out, "
        "and use `async with`, `async for` and `await`"
    )
