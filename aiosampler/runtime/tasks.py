"""Several coroutines at once, of which the first that fails ends the others and is all that is told."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def first_error() -> Iterator[None]:
    """Around a task group: raise the first of its errors by itself, with the cause that it has."""
    first = None
    try:
        yield
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:
        raise first


async def all_or_first_error(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all; when one raises, cancel the others and raise just that."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]
