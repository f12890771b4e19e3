"""Where two groups of workers run, if the user did not say it and CPUs are few.

Three parties, the groups and the action server, have two places then, and a scheduler often wakes one in the place of
another while a CPU falls idle. Which placement is best depends on the environments, the model, and on what else runs on
the machine, so it is tried out in the first batches: left to the scheduler; each CPU with a worker of each group; each
group with CPUs of its own, between which the server moves. See `aiosampler.affinity.make_affinity` for the last two.
What is recorded is the same everywhere. Where a placement is slower than the scheduler's was, later on, because others
run on the CPUs by then, it is given up for good.
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

#: Each placement is tried for so many batches, beside one that warms up, and until groups have taken so many steps, or
#: so many seconds have gone by.
_BATCHES, _STEPS, _SECONDS = 2, 128, 1.0
#: Batches by which a placement is judged that was settled on.
_RECENT = 8
#: The scheduler is left alone unless a placement takes less than this share of its time.
_WORTH_IT = 0.95


@dataclass(slots=True)
class _Candidate:
    workers: Sequence[Sequence[int]]  # CPUs of each
    server_cpus: ServerCpus | None = None  # between which the server moves, if they are apart
    steps: int = 0
    elapsed: float = 0.0
    seconds: list[float] = field(default_factory=list)  # per step, of each batch

    @property
    def tried(self) -> bool:
        return len(self.seconds) > _BATCHES and (self.steps >= _STEPS or self.elapsed >= _SECONDS)

    @property
    def cost(self) -> float:
        return median(self.seconds[1:])


class AutomaticPlacement:
    """Tries out where to place two groups and their server, and keeps to what is fastest.

    Args:
        claim: Of all CPUs; released where they are left to the scheduler.
        n_workers: Of both groups.
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
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds per step, since it is settled
        self._placed: list[int] = []  # processes that are where they belong

    def batch(self, seconds: float, steps: int) -> bool:
        """Look at a batch that is complete; return whether it has to be followed by another placement, now in force.

        Args:
            seconds: That it took.
            steps: Of groups.
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
        """Leave it to the scheduler for good where a placement has come to be slower: others run on the CPUs by now."""
        self._recent.append(seconds)
        if len(self._recent) < _RECENT or median(self._recent) <= self._free.cost:
            return False
        self._current, self._placed = self._free, []
        self.release()
        return True

    @property
    def server_cpus(self) -> ServerCpus | None:
        """Between which the server is to move; None where it stays."""
        return self._current.server_cpus

    def place(self, pids: Sequence[int]) -> None:
        """Move the workers to where they belong, those among them that took the place of one that was lost.

        Args:
            pids: Of all workers, by rank; 0 for one that is not there.
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
        """Leave the CPUs to others."""
        self._claim.release()


def automatic_placement(affinity: Affinity, n_workers: int, n_groups: int) -> AutomaticPlacement | None:
    """Place two groups and the server on the CPU of a sampler; None where that is to be left to the scheduler.

    That is where the user has placed anything, where everybody has a CPU, where workers are so many that they mostly
    wait, where the CPUs are not all ours to use, and where another sampler has placed its processes on one of them.

    Args:
        affinity: That the user gave.
        n_workers: Of all groups.
        n_groups: How many there are.
    """
    cpus = usable_cpus()
    few = 2 <= len(cpus) < n_workers + 1 <= 2 * len(cpus) + 1
    if affinity != Affinity() or n_groups != 2 or n_workers % 2 or not few or usable_cpu_count() < len(cpus):
        return None
    claim = claim_cpus(cpus)
    return None if claim is None else AutomaticPlacement(claim, n_workers)
