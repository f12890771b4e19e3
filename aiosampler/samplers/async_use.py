"""Using a sampler by `async with` and `async for`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from aiosampler.errors import SamplerClosed, SamplerError
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.samplers.state import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from aiosampler.samplers.base import AsyncSamplerMixin
    from aiosampler.samplers.samples import Samples
    from aiosampler.samplers.session import Session
    from aiosampler.samplers.sync import SyncSampler


class AsyncUse:
    """The part of a sampler that starts and ends it with a block, and iterates over its batches.

    `with` and `for` are refused, where `async with` and `async for` are needed.
    """

    _session: Session

    async def async_initialize(self) -> Any:
        """First half of the start."""
        raise NotImplementedError

    async def initialize(self) -> None:
        """Second half of the start."""
        raise NotImplementedError

    async def obtain_samples(self) -> Samples:
        """Return the next batch."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End the sampler; idempotent."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.async_initialize()
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except SamplerError as exc:
            if error is None:
                raise
            error.add_note(f"closing the sampler failed as well: {exc}")
        except asyncio.CancelledError:
            # Closing makes a sibling task that waits for a batch fail, so their task group cancels this task as well.
            # What the body raised is the reason for all of it, and is raised instead of the cancellation.
            if not isinstance(error, Exception):
                raise

    def __aiter__(self) -> AsyncIterator[Samples]:
        return self

    @leaves_nothing
    async def __anext__(self) -> Samples:
        try:
            return await self.obtain_samples()
        except SamplerClosed:
            if self._session.ended_as_asked:  # before this call, or while it waited
                raise StopAsyncIteration from None
            raise

    def sync(self) -> SyncSampler:
        """This sampler for a program that is not asynchronous; see `SyncSampler`.

        Raises:
            SamplerError: It was started already.
        """
        from aiosampler.samplers.sync import SyncSampler  # imported here, since it imports the samplers

        if self._session.state is not State.NEW:
            raise SamplerError("sync() is for a sampler that was not started yet")
        return SyncSampler(cast("AsyncSamplerMixin", self))

    def __enter__(self) -> NoReturn:
        raise TypeError(f"{self._advice('with')}, or `with sampler.sync()` where nothing is asynchronous")

    def __exit__(self, *exc_info: object) -> None:
        """Never called: `__enter__` raises."""

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self._advice('for')}, or `with sampler.sync() as sampler` where nothing is asynchronous")

    def _advice(self, word: str) -> str:
        return f"{type(self).__name__} is asynchronous: use `async {word}`"
