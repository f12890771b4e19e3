"""Importing modules before a process forks, and finding what must not be shared by those that come of it."""

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
    """Import modules, and keep the garbage collector of forked processes from their objects.

    Args:
        modules: Their names.
        shared: Whether any forked process may have what they leave open and draw from. What torch, NumPy and Gymnasium
            leave is known, and looked after.

    Returns:
        What speaks against forking now, if anything does; the modules after that are not imported.
    """
    checks = (*_UNSAFE, *(() if shared else _UNSHARED))
    enabled = gc.isenabled()
    gc.disable()  # a tenth of the time, and all that is found is kept anyhow
    try:
        for module in modules:
            gc.freeze()  # so that what is made from now on can be told
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
    """The open descriptors of this process, where the system tells."""
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
    # Listing them takes one, which has a number that was free before
    return "left a file or a socket open" if len(descriptors()) > len(before) else None


def _children(_before: Collection[str]) -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "started a process"


def _generators(_before: Collection[str]) -> str | None:
    """Each process would draw the same from them, where each that imports for itself has other entropy."""
    numpy = sys.modules.get("numpy.random")
    kinds = (random.Random,) if numpy is None else (random.Random, numpy.Generator, numpy.RandomState)
    found = any(isinstance(it, kinds) and not isinstance(it, random.SystemRandom) for it in gc.get_objects())
    return "made a random generator" if found else None


_UNSAFE: tuple[Callable[[Collection[str]], str | None], ...] = (_threads, _cuda)
_UNSHARED: tuple[Callable[[Collection[str]], str | None], ...] = (_opened, _children, _generators)
