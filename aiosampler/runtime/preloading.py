"""Importing modules in a process that will fork, and finding what its children must not share."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


class Hindrance(NamedTuple):
    """Why processes are not to be forked from one that has imported a module."""

    module: str
    why: str


def import_all(modules: Iterable[str], *, shared: bool) -> Hindrance | None:
    """Import modules, and exempt their objects from garbage collection, so that forked processes share their memory.

    Args:
        modules: Their names.
        shared: Whether forked processes may share descriptors and random generators that the modules create. True for
            torch, NumPy and Gymnasium, whose ones are known and dealt with.

    Returns:
        Why this process must not fork now, None if it may; the modules after that one are not imported.
    """
    checks = (*_UNSAFE, *(() if shared else _UNSHARED))
    enabled = gc.isenabled()
    gc.disable()  # saves a tenth of the time: everything is kept anyway
    try:
        for module in modules:
            gc.freeze()  # what exists before is left out when generators are searched for
            before = descriptors()
            try:
                importlib.import_module(module)
            except BaseException as exc:  # it may call `exit()`
                return Hindrance(module, f"raised {type(exc).__name__}")
            for check in checks:
                why = check(before)
                if why is not None:
                    return Hindrance(module, why)
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
    return None


def descriptors() -> Collection[str]:
    """The open descriptors of this process; empty if the system does not list them."""
    with contextlib.suppress(OSError):
        return set(os.listdir("/proc/self/fd"))
    return set()


def _threads(_before: Collection[str]) -> str | None:
    try:
        count = len(os.listdir("/proc/self/task"))
    except OSError:  # there is no such thing on this system
        count = threading.active_count()
    return None if count == 1 else f"started {count - 1} {'thread' if count == 2 else 'threads'}"


def _cuda(_before: Collection[str]) -> str | None:
    torch = sys.modules.get("torch")
    return "initialised CUDA" if torch is not None and torch.cuda.is_initialized() else None


def _opened(before: Collection[str]) -> str | None:
    # Listing them opens one more, with the lowest free number
    return "left a file or a socket open" if len(descriptors()) > len(before) else None


def _children(_before: Collection[str]) -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "started a process"


def _generators(_before: Collection[str]) -> str | None:
    """Random generators that the modules made: forked processes would all draw the same numbers from them."""
    numpy = sys.modules.get("numpy.random")
    kinds = (random.Random,) if numpy is None else (random.Random, numpy.Generator, numpy.RandomState)
    found = any(isinstance(it, kinds) and not isinstance(it, random.SystemRandom) for it in gc.get_objects())
    return "made a random generator" if found else None


_UNSAFE: tuple[Callable[[Collection[str]], str | None], ...] = (_threads, _cuda)
_UNSHARED: tuple[Callable[[Collection[str]], str | None], ...] = (_opened, _children, _generators)
