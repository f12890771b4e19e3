"""Who does what: devices, the groups of each, and the workers of each group, with contiguous shares everywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from aiosampler.collectors.rules import split_evenly
from aiosampler.workers.messages import Share


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one action server has; the workers of the CPU sampler are assigned as if to a single one.

    Attributes:
        index: Of the server.
        device: That its agent runs on.
        groups: The shares of the workers of each group.
    """

    index: int
    device: str
    groups: tuple[tuple[Share, ...], ...]

    @property
    def shares(self) -> list[Share]:
        """Those of all workers, by rank."""
        return [share for group in self.groups for share in group]


def split(whole: range, parts: int) -> Iterator[range]:
    """Cut a range into `parts`, as evenly as possible, the remainder to the first."""
    ends = accumulate(split_evenly(len(whole), parts), initial=whole.start)
    return (range(*pair) for pair in pairwise(ends))


def assign(
    B: int, eval_B: int, n_workers: int, devices: Sequence[str] = ("cpu",), n_groups: int = 1
) -> list[Assignment]:
    """Split environments and workers over devices, then groups, then the workers of a group."""
    D = len(devices)
    assignments = []
    by_device = zip(split(range(n_workers), D), split(range(B), D), split(range(eval_B), D), strict=True)
    for index, (device, wholes) in enumerate(zip(devices, by_device, strict=True)):
        by_group = zip(*(split(whole, n_groups) for whole in wholes), strict=True)
        groups = tuple(
            tuple(
                Share(*share)
                for share in zip(ranks, split(environments, len(ranks)), split(evaluation, len(ranks)), strict=True)
            )
            for ranks, environments, evaluation in by_group
        )
        assignments.append(Assignment(index, device, groups))
    return assignments
