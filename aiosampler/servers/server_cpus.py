"""Which processes have a CPU to themselves, and where an action server without one runs.

If each of two groups has CPUs of its own and the server has none, it runs on the CPUs of the group that it acts for,
which are idle meanwhile. After it has released the group's workers, which do not preempt it when they wake, it moves
away. A scheduler alone often wakes a worker on the CPU of the server or of another worker, while a CPU is idle.
"""

import os
from collections.abc import Collection, Sequence
from itertools import chain

from aiosampler.affinity import Affinity, usable_cpu_count, usable_cpus


class ServerCpus:
    """The CPUs of two groups, between which this thread moves.

    Args:
        cpus: For each group, its CPUs.
    """

    def __init__(self, cpus: Sequence[Collection[int]]) -> None:
        self._cpus, self._at = cpus, -1

    def move_to(self, group: int) -> None:
        """Move this thread to the CPUs of a group."""
        if group != self._at:
            os.sched_setaffinity(0, self._cpus[group])
            self._at = group


def server_cpus(affinity: Affinity, groups: Sequence[Sequence[int]]) -> ServerCpus | None:
    """The CPUs between which a single server moves; None if the groups do not divide all CPUs between them.

    Args:
        affinity: The affinity of the sampler.
        groups: For each group, the ranks of its workers.
    """
    worker_cpus = affinity.workers
    if worker_cpus is None or len(groups) != 2 or affinity.torch_threads > 1:  # torch's threads would not move
        return None
    cpus = [{*chain(*(worker_cpus[worker] for worker in group))} for group in groups]
    return None if cpus[0] & cpus[1] or {*usable_cpus()} - cpus[0] - cpus[1] else ServerCpus(cpus)


def workers_have_cpus(affinity: Affinity, n_workers: int, n_groups: int) -> bool:
    """Whether each worker that waits has a CPU to itself."""
    if affinity.workers is None:
        return n_workers <= usable_cpu_count()
    # A worker of the other group may share the CPU: it steps meanwhile, and a worker that waits yields to it
    return n_workers // n_groups <= len({*chain(*affinity.workers)})


def servers_have_cpus(affinity: Affinity, n_servers: int, n_workers: int, n_groups: int) -> bool:
    """Whether each server has a CPU to itself while the workers of a group step."""
    of_workers = {*chain(*(affinity.workers or ()))}
    if affinity.cpus is not None and of_workers:
        return len({*affinity.cpus} - of_workers) >= n_servers
    return n_servers + n_workers // n_groups <= min(len({*usable_cpus()} | of_workers), usable_cpu_count())
