"""Which CPUs the processes of a sampler may use."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiosampler.errors import ConfigError


def usable_cpus() -> tuple[int, ...]:
    """Indices of the CPUs that this process may run on, in order; all CPUs if the system has no CPU masks."""
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


def default_worker_count() -> int:
    """How many workers a sampler has by default: the usable CPUs, divided among the ranks of this machine.

    ``torchrun`` and its like say in ``LOCAL_WORLD_SIZE`` how many processes they have started here.
    """
    return max(1, usable_cpu_count() // _from_launcher("LOCAL_WORLD_SIZE", 1))


def cpus_of_this_rank() -> tuple[int, ...]:
    """The part of the usable CPUs that this rank has among those of its machine; no more than the quota allows."""
    cpus = usable_cpus()[: usable_cpu_count()]
    n, rank = _from_launcher("LOCAL_WORLD_SIZE", 1), _from_launcher("LOCAL_RANK", 0)
    rank %= n
    return cpus[rank * len(cpus) // n : (rank + 1) * len(cpus) // n] or (cpus[rank % len(cpus)],)


def _from_launcher(variable: str, least: int) -> int:
    said = os.environ.get(variable, "")
    return max(least, int(said)) if said.isdecimal() else least


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """Placement of a sampler's processes. `make_affinity` builds one for this machine.

    Attributes:
        cpus: CPUs of the sampler process; None leaves it those of the user's process. If all of these CPUs are divided
            between two groups of workers, an action server on the CPU runs on those of the group that it serves.
        workers: For each worker, its CPUs; None leaves them those of the sampler process.
        torch_threads: Threads that torch may use in the sampler process.
    """

    cpus: Sequence[int] | None = None
    workers: Sequence[Sequence[int]] | None = None
    torch_threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.torch_threads, bool) or not isinstance(self.torch_threads, int) or self.torch_threads < 1:
            raise ConfigError(f"torch_threads must be an integer of at least 1, got {self.torch_threads!r}")
        if self.cpus is not None:
            object.__setattr__(self, "cpus", checked_cpus("affinity.cpus", self.cpus))
        if self.workers is not None:
            workers = [checked_cpus(f"affinity.workers[{rank}]", cpus) for rank, cpus in enumerate(self.workers)]
            if not workers:
                raise ConfigError("affinity.workers must have a set of CPUs for each worker, got none")
            object.__setattr__(self, "workers", workers)


def make_affinity(
    n_workers: int | None = None,
    *,
    n_gpus: int = 0,
    alternating: bool = False,
    apart: bool = False,
    cpus: Sequence[int] | None = None,
    torch_threads: int = 1,
) -> Affinity:
    """Place workers one to a CPU, as far as there are CPUs.

    With GPUs, each has an action server that wants a CPU of its own; it gets one where that leaves at least twice as
    many for the workers. Alternating groups take turns, so each CPU gets one worker of each group.

    If CPUs are few, the agent is on the CPU, and a forward pass takes a millisecond or longer, as that of a
    convolutional network, it is better to keep the groups `apart`: each has one half of the CPUs, and the actions of a
    group are computed on its own half, which is idle then (on one device, and with one torch thread).

    Args:
        n_workers: How many there will be; by default one for each CPU of the workers, or two if they alternate.
        n_gpus: How many devices infer.
        alternating: Whether the workers form two groups.
        apart: Whether these groups have CPUs of their own.
        cpus: Indices of the CPUs to use; by default all that this process may use.
        torch_threads: Threads that torch may use in the sampler process.

    Raises:
        ConfigError: A count that is not possible, or CPUs that this process may not use.
    """
    usable = usable_cpus() if cpus is None else checked_cpus("cpus", cpus)
    for name, count, least in (("n_workers", n_workers, 1), ("n_gpus", n_gpus, 0)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < least):
            raise ConfigError(f"{name} must be an integer of at least {least}, got {count!r}")
    servers = usable[:n_gpus] if len(usable) >= 3 * n_gpus else ()
    stepping = usable[len(servers) :]
    groups = 2 if alternating else 1
    half = len(stepping) // 2
    if apart and (not alternating or n_gpus or not half):
        raise ConfigError(
            "apart=True is for two groups on two CPUs or more, without GPUs; "
            f"got alternating={alternating}, n_gpus={n_gpus} and {len(stepping)} CPUs"
        )
    places = [stepping[:half], stepping[half : 2 * half]] if apart else [stepping] * groups
    devices = max(1, n_gpus) if alternating else 1
    wholes = groups * devices  # workers that must be added together: one of each group on each device
    if n_workers is None:
        n_workers = max(1, sum(map(len, places)) // wholes) * wholes
    if n_workers % wholes:
        raise ConfigError(f"n_workers must be a multiple of {wholes} for two groups on each device, got {n_workers}")
    each = n_workers // wholes
    workers = [
        (place[(device * each + i) % len(place)],) for device in range(devices) for place in places for i in range(each)
    ]
    return Affinity(cpus=servers or None, workers=workers, torch_threads=torch_threads)


def checked_cpus(name: str, cpus: Iterable[int]) -> tuple[int, ...]:
    """`cpus` as a tuple, iterated over once, since they may come from a generator.

    Raises:
        ConfigError: They are no indices of CPUs, or this process may not use them.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"{name} cannot be honoured: this system does not let a process choose its CPUs")
    chosen = tuple(cpus) if isinstance(cpus, Iterable) else ()
    if not chosen or not set(chosen) <= set(usable_cpus()):
        got = list(chosen) if isinstance(cpus, Iterable) else repr(cpus)
        raise ConfigError(
            f"{name} must be some of the CPUs that this process may use, {list(usable_cpus())}, got {got}"
        )
    return chosen
