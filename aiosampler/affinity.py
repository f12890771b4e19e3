"""Which CPUs the processes of a sampler may use."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiosampler.errors import ConfigError


def usable_cpus() -> tuple[int, ...]:
    """The CPUs that this process may run on, in order; all of them where the system cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cpu_count() -> int:
    """How many CPUs' worth of time this process can get: its CPU mask, and the container's quota."""
    count = len(usable_cpus())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return max(1, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """Placement of a sampler's processes.

    Attributes:
        cpus: CPUs of the sampler process; None leaves it those of the user's process.
        torch_threads: Threads that torch may use in the sampler process.
    """

    cpus: Sequence[int] | None = None
    torch_threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.torch_threads, bool) or not isinstance(self.torch_threads, int) or self.torch_threads < 1:
            raise ConfigError(f"torch_threads must be an integer of at least 1, got {self.torch_threads!r}")
        if self.cpus is None:
            return
        if not hasattr(os, "sched_setaffinity"):
            raise ConfigError("affinity.cpus cannot be honoured: this system does not let a process choose its CPUs")
        missing = sorted(set(self.cpus) - set(usable_cpus()))
        if missing or not self.cpus:
            raise ConfigError(
                f"affinity.cpus must be some of the CPUs that this process may use, {list(usable_cpus())}, "
                f"got {list(self.cpus)}"
            )
