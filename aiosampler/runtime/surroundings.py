"""What a spawned process inherits, and a forked one must be sent, since its server has started earlier."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

#: Environment variables that libraries and interpreters read when they are loaded: a change needs a new server.
_READ_WHEN_LOADED = (
    *("CU", "GOMP_", "GLIBC_", "HIP_", "HSA_", "KMP_", "LANG", "LC_", "LD_", "DYLD_", "MALLOC_", "MKL_", "NCCL_"),
    *("NPY_", "NUMEXPR_", "NUMPY_", "NVIDIA_", "OMP_", "ONEDNN_", "DNNL_", "OPENBLAS_", "PYTHON", "PYTORCH_"),
    *("ROCR_", "TORCH", "VECLIB_", "XLA_"),
)
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_FLAGS = ("dev_mode", "dont_write_bytecode", "isolated", "no_user_site", "optimize", "utf8_mode")


class Surroundings(NamedTuple):
    """The state of a process that its children inherit.

    Attributes:
        environ: Its environment variables.
        umask: Its umask; None if the system does not tell.
        cpus: CPUs that it may run on; None if the system does not tell.
        soft_limits: For each resource, its soft limit.
        ignored: Numbers of the signals that it ignores.
    """

    environ: dict[str, str]
    umask: int | None
    cpus: frozenset[int] | None
    soft_limits: dict[int, int]
    ignored: frozenset[int]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process, with the CPUs of this thread."""
        return cls(
            dict(os.environ),
            _umask(),
            frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            {limit: resource.getrlimit(limit)[0] for limit in _LIMITS},
            frozenset(number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN),
        )

    def enter(self, before: Surroundings) -> None:
        """Apply them to this process, which has had those of `before` so far."""
        if self.environ != before.environ:
            for name in before.environ.keys() - self.environ.keys():
                del os.environ[name]
            os.environ.update(self.environ)
            if self.environ.get("TZ") != before.environ.get("TZ"):
                time.tzset()
        if self.umask is not None:
            os.umask(self.umask)
        if self.cpus is not None and self.cpus != before.cpus:
            with contextlib.suppress(OSError):  # CPUs that are offline now
                os.sched_setaffinity(0, self.cpus)
        for limit, soft in self.soft_limits.items():
            if soft != before.soft_limits[limit]:
                with contextlib.suppress(OSError, ValueError):  # the system does not permit it
                    resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
        for number in self.ignored ^ before.ignored:
            with contextlib.suppress(OSError, ValueError):  # a signal whose handling cannot be changed
                signal.signal(number, signal.SIG_IGN if number in self.ignored else signal.SIG_DFL)


def fixed_surroundings() -> tuple[object, ...]:
    """What cannot be changed after the start: a server that was started with other values must be replaced."""
    hard = tuple(resource.getrlimit(limit)[1] for limit in _LIMITS)
    return (
        {name: value for name, value in os.environ.items() if name.startswith(_READ_WHEN_LOADED)},
        (tuple(sys.warnoptions), sys._xoptions, *(getattr(sys.flags, name, None) for name in _FLAGS)),  # noqa: SLF001 - as documented
        (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), tuple(os.getgroups()), os.getpgrp(), os.getsid(0)),
        (os.getpriority(os.PRIO_PROCESS, 0), hard, _read("/proc/self/cgroup"), _namespaces()),
    )


def _umask() -> int | None:
    """The umask, read without setting it, since that would affect other threads for a moment."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return None


def _namespaces() -> list[str]:
    with contextlib.suppress(FileNotFoundError, PermissionError):  # there is no such thing on this system
        return sorted(os.readlink(link) for link in Path("/proc/self/ns").iterdir())
    return []


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError, PermissionError):  # as above
        return Path(path).read_text()
    return ""
