"""One environment whose methods are coroutines: what an event loop makes of it, and asks of it."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.environment_access import Ask, call_environment, invoke, pack_result
from aiosampler.collectors.environment_checks import check_environment, check_reset, method_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping


class CoroutineEnvironment:
    """An environment in the event loop that it lives in; any of its methods may as well be plain ones.

    All of it is awaited in one task, from `settle` to `close`: contexts may have to be left in the task that entered
    them.

    Attributes:
        env: The environment.
    """

    def __init__(self, env: Any, contexts: contextlib.AsyncExitStack, *, managed: bool) -> None:
        self.env = env
        self._contexts, self._managed = contexts, managed
        self._reset, self.step, self._close = (method_of(env, name) for name in ("reset", "step", "close"))

    @classmethod
    async def settle(cls, made: Any) -> CoroutineEnvironment:
        """Await what `env_fn` returned, enter it if it is a context, and check what comes of that.

        Raises:
            TypeError: It is no environment.
        """
        contexts = contextlib.AsyncExitStack()
        if inspect.isawaitable(made):
            made = await made
        try:
            managed = hasattr(type(made), "__aenter__")
            env = await contexts.enter_async_context(made) if managed else made
            return cls(check_environment(env, managed=managed), contexts, managed=managed)
        except BaseException:
            await contexts.aclose()
            raise

    async def reset(self, seed: int | None, options: Mapping[str, Any] | None) -> tuple[Any, Any]:
        """Reset it; return observation and info."""
        named = {} if options is None else {"options": dict(options)}  # what it takes out it gets again
        result = self._reset(seed=seed, **named)
        return check_reset(await result if inspect.isawaitable(result) else result)

    async def call(self, ask: Ask, name: str, packed: bytes, b: int, *, evaluation: bool) -> bytes:
        """Have it do something, as `call_environment` has plain ones; what a method returns is awaited."""
        if ask is not Ask.CALL:
            return call_environment(self.env, ask, name, packed, b, evaluation=evaluation)
        result = invoke(self.env, name, packed, b, evaluation=evaluation)
        if inspect.isawaitable(result):
            result = await result
        return pack_result(result, ask, name, b, evaluation=evaluation)

    async def close(self) -> None:
        """Close it: by leaving its context, if it came from one."""
        if not self._managed:
            closing = self._close()
            if inspect.isawaitable(closing):
                await closing
        await self._contexts.aclose()


def waits_in(task: asyncio.Task[Any]) -> str:
    """Where the coroutines of a task wait, as a traceback shows it."""
    frames: list[Any] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        awaited = getattr(awaited, "cr_await", None)
    return "".join(traceback.StackSummary.extract(frames).format())
