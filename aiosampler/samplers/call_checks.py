"""Checks of calls of a sampler, before a request is sent: in which loop, and with which numbers."""

from __future__ import annotations

import asyncio
from typing import Any

from aiosampler.errors import ConfigError, SamplerError
from aiosampler.specs.arguments import as_integer


def running_loop() -> asyncio.AbstractEventLoop:
    """The running asyncio event loop; raise `SamplerError` if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SamplerError(
            "a sampler is awaited from asyncio, and no asyncio event loop is running here; under trio or another "
            "library, run what uses the sampler by asyncio.run(), in a thread of its own"
        ) from None


def checked(name: str, value: Any, most: int | None = None) -> int | None:
    """Check an argument that is None or an integer from 0 to `most`; NumPy integers become Python's."""
    if value is None:
        return None
    integer = as_integer(name, value, 0)
    if most is not None and integer > most:
        raise ConfigError(f"{name} must be {' or '.join(map(str, range(most + 1)))}, got {value!r}")
    return integer


def match(collected: tuple[int, int], itr: int | None, db_idx: int | None) -> None:
    """Refuse an `itr` or `db_idx` other than that of the batch that is being collected: ``(itr, db_idx)``."""
    for name, got, is_being in (("itr", itr, collected[0]), ("db_idx", db_idx, collected[1])):
        if got is not None and got != is_being:
            raise ConfigError(
                f"{name}={got!r}, but the batch with {name}={is_being} is being collected already; "
                "leave it out, or use overlap=False"
            )
