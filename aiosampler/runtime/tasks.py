"""Running several coroutines at once; when one fails, the others are cancelled and only its error is raised."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any


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
