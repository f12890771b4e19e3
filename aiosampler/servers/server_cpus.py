"""Who has a CPU to itself, and where an action server runs that has none.

If each of two groups has CPUs of its own, and the server has not, it runs on those of the group that it serves: they
are idle while the group waits. When it has released the group, whose workers interrupt nobody when they are woken, it
makes room. Left to itself, a scheduler often wakes a worker in the place of the server, or beside another worker, while
a CPU falls idle.
"""

import os
from collections.abc import Collection, Sequence
from itertools import chain

from aiosampler.affinity import Affinity, usable_cpu_count, usable_cpus


class ServerCpus:
    """The CPUs of two groups, between which this thread moves.

    Args:
        cpus: Of each group.
    """

    def __init__(self, cpus: Sequence[Collection[int]]) -> None:
        self._cpus, self._at = cpus, -1

    def move_to(self, group: int) -> None:
        """Run on the CPUs of this group from now on."""
        if group != self._at:
            os.sched_setaffinity(0, self._cpus[group])
            self._at = group


def server_cpus(affinity: Affinity, groups: Sequence[Sequence[int]]) -> ServerCpus | None:
    """Those between which the only server of a sampler moves; None where its groups do not have all CPUs between them.

    Args:
        affinity: That this process was given.
        groups: The workers of each group.
    """
    worker_cpus = affinity.workers
    if worker_cpus is None or len(groups) != 2 or affinity.torch_threads > 1:  # torch's threads stay where they began
        return None
    cpus = [{*chain(*(worker_cpus[worker] for worker in group))} for group in groups]
    return None if cpus[0] & cpus[1] or {*usable_cpus()} - cpus[0] - cpus[1] else ServerCpus(cpus)


def workers_have_cpus(affinity: Affinity, n_workers: int, n_groups: int) -> bool:
    """Whether each worker that waits has a CPU to itself."""
    if affinity.workers is None:
        return n_workers <= usable_cpu_count()
    # One of the other group may be there, too: it steps meanwhile, and whoever waits lets it
    return n_workers // n_groups <= len({*chain(*affinity.workers)})


def servers_have_cpus(affinity: Affinity, n_servers: int, n_workers: int, n_groups: int) -> bool:
    """Whether each server has a CPU to itself while the workers of a group step."""
    of_workers = {*chain(*(affinity.workers or ()))}
    if affinity.cpus is not None and of_workers:
        return len({*affinity.cpus} - of_workers) >= n_servers
    return n_servers + n_workers // n_groups <= min(len({*usable_cpus()} | of_workers), usable_cpu_count())
