"""Running several coroutines at once, and waiting for a task to its end."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def first_error() -> Iterator[None]:
    """A context around a task group: raise the first of its errors alone, instead of an exception group."""
    first = None
    try:
        yield
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:
        raise first


async def all_or_first_error(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all, and return their results; when one raises, cancel the others and raise its error."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


async def to_the_end(task: asyncio.Future[T]) -> T:
    """Suspend until a task is done, even if the caller is cancelled meanwhile; the cancellation is raised after that.

    Returns:
        The result of the task, unless it has raised, or the caller was cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved, or asyncio would log it
        raise cancelled
    return task.result()
