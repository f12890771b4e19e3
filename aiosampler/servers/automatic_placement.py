"""Placing two groups of workers and their server on few CPUs, if the user gave no affinity.

With two groups and a server on too few CPUs, a scheduler often wakes one process on the CPU of another while a CPU is
idle. The best placement depends on the environments, the model and the load of the machine, so three are tried in the
first batches: the scheduler's; each CPU with a worker of each group; each group with CPUs of its own, between which the
server moves. `aiosampler.affinity.make_affinity` describes the last two. The batches are the same with any of them. If
the chosen placement later becomes slower than the scheduler's was, as other programs use the CPUs, it is given up.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from aiosampler.affinity import Affinity, make_affinity, usable_cpu_count, usable_cpus
from aiosampler.runtime.cpu_claims import CpuClaim, claim_cpus
from aiosampler.runtime.placement import give_way, take_turns
from aiosampler.servers.server_cpus import ServerCpus, server_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Each placement is tried, after a batch for warming up, for this number of batches, and until the groups have taken
#: this number of steps, or these seconds have passed.
_BATCHES, _STEPS, _SECONDS = 2, 128, 1.0
#: Number of the last batches by which the chosen placement is judged.
_RECENT = 8
#: A placement is chosen only if it takes less than this share of the scheduler's time.
_WORTH_IT = 0.95


@dataclass(slots=True)
class _Candidate:
    workers: Sequence[Sequence[int]]  # for each worker, its CPUs
    server_cpus: ServerCpus | None = None  # those between which the server moves, if the groups are apart
    steps: int = 0
    elapsed: float = 0.0
    seconds: list[float] = field(default_factory=list)  # seconds per step, for each batch

    @property
    def tried(self) -> bool:
        return len(self.seconds) > _BATCHES and (self.steps >= _STEPS or self.elapsed >= _SECONDS)

    @property
    def cost(self) -> float:
        return median(self.seconds[1:])


class AutomaticPlacement:
    """Tries the placements of two groups and their server, and keeps the fastest.

    Args:
        claim: A claim on all CPUs; it is released when they are left to the scheduler.
        n_workers: Number of workers of both groups.
    """

    def __init__(self, claim: CpuClaim, n_workers: int) -> None:
        self._claim = claim
        free, together = usable_cpus(), make_affinity(n_workers, alternating=True)
        self._current = self._free = _Candidate([free] * n_workers)
        apart = make_affinity(n_workers, alternating=True, apart=True)
        groups = [range(n_workers // 2), range(n_workers // 2, n_workers)]
        cpus = server_cpus(apart, groups)
        self._left = [_Candidate(together.workers or ())]
        if cpus is not None:
            self._left.append(_Candidate(apart.workers or (), cpus))
        self._all = [self._free, *self._left]
        self._settled = self._moved = False
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds per step, of the last batches
        self._placed: list[int] = []  # ids of the processes that were placed

    def batch(self, seconds: float, steps: int) -> bool:
        """Count a complete batch; return whether the placement has changed, so that `place` must be called.

        Args:
            seconds: Duration of the batch.
            steps: Number of steps that groups took in it.
        """
        if not steps or (self._settled and self._current is self._free):
            return False
        current = self._current
        if self._settled:
            return self._disappoints(seconds / steps)
        current.seconds.append(seconds / steps)
        current.steps += steps
        current.elapsed += seconds
        if not current.tried:
            return False
        if self._left:
            self._current = self._left.pop(0)
        else:
            self._settled = True
            best = min(self._all, key=lambda candidate: candidate.cost)
            self._current = best if best.cost < _WORTH_IT * self._free.cost else self._free
            if self._current is self._free:
                self.release()
        self._placed, self._moved = [], True
        return self._current is not current

    def _disappoints(self, seconds: float) -> bool:
        """If the chosen placement has become slower than the scheduler's was, give it up for good."""
        self._recent.append(seconds)
        if len(self._recent) < _RECENT or median(self._recent) <= self._free.cost:
            return False
        self._current, self._placed = self._free, []
        self.release()
        return True

    @property
    def server_cpus(self) -> ServerCpus | None:
        """The CPUs between which the server must move; None if it stays."""
        return self._current.server_cpus

    def place(self, pids: Sequence[int]) -> None:
        """Move the workers to their CPUs, including replacements of lost workers.

        Args:
            pids: Process ids of all workers by rank; 0 for one that is being replaced.
        """
        if not self._moved or [*pids] == self._placed:
            return
        for pid, cpus in zip(pids, self._current.workers, strict=True):
            if pid:
                with contextlib.suppress(OSError):  # it has ended
                    os.sched_setaffinity(pid, cpus)
                    (take_turns if self._current.server_cpus is None else give_way)(pid)
        self._placed = [*pids]

    def release(self) -> None:
        """Release the claim on the CPUs."""
        self._claim.release()


def automatic_placement(affinity: Affinity, n_workers: int, n_groups: int) -> AutomaticPlacement | None:
    """The automatic placement for a sampler with two groups and a server on the CPU; None if it is not used.

    It is not used if the user has placed anything, if there is a CPU for each process, if there are so many workers
    that most of them wait, if the process may not use all CPUs, or if another sampler has claimed one of them.

    Args:
        affinity: The affinity that the user gave.
        n_workers: Number of workers of all groups.
        n_groups: Number of groups.
    """
    cpus = usable_cpus()
    few = 2 <= len(cpus) < n_workers + 1 <= 2 * len(cpus) + 1
    if affinity != Affinity() or n_groups != 2 or n_workers % 2 or not few or usable_cpu_count() < len(cpus):
        return None
    claim = claim_cpus(cpus)
    return None if claim is None else AutomaticPlacement(claim, n_workers)
