"""Named shared memory that the user has made: it must outlive our processes that attach to it.

`multiprocessing.shared_memory` registers each segment that a process attaches to with its resource tracker, which
unlinks it when the process ends (https://github.com/python/cpython/issues/82300; Python 3.13 lets callers opt out). In
our processes only the segments that they have made themselves are registered.
"""

import contextlib
import importlib
import os
from multiprocessing import resource_tracker
from typing import Any


def track_own_segments_only() -> None:
    """Keep the resource tracker of this process from segments that it only attaches to."""
    with contextlib.suppress(ImportError):  # the system has no named shared memory
        module = importlib.import_module("_posixshmem")
        made: set[str] = set()
        _tell_what_is_made(module, made)
        _track(made)


def _tell_what_is_made(module: Any, made: set[str]) -> None:
    original = module.shm_open

    def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor: int = original(path, flags, mode)
        if flags & os.O_CREAT:
            made.add(path)
        return descriptor

    module.shm_open = shm_open


def _track(made: set[str]) -> None:
    module: Any = resource_tracker
    original_register, original_unregister = module.register, module.unregister

    def register(name: str, rtype: str) -> None:
        if rtype != "shared_memory" or name in made:
            original_register(name, rtype)

    def unregister(name: str, rtype: str) -> None:
        if rtype == "shared_memory" and name not in made:
            if module._resource_tracker._fd is None:  # noqa: SLF001 - the public way to ask would start a tracker
                return
            original_register(name, rtype)  # whose tracker it is may not know it, and would complain
        original_unregister(name, rtype)

    module.register, module.unregister = register, unregister
