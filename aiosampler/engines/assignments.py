"""Assigning environments and workers to devices and groups, in contiguous shares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from aiosampler.collectors.rules import split_evenly
from aiosampler.workers.messages import Share


@dataclass(frozen=True, slots=True)
class Assignment:
    """The groups of one action server; the CPU sampler has one assignment for all of its workers.

    Attributes:
        index: Index of the server.
        device: Name of the device that its agent runs on.
        groups: For each group, the shares of its workers.
    """

    index: int
    device: str
    groups: tuple[tuple[Share, ...], ...]

    @property
    def shares(self) -> list[Share]:
        """The shares of all workers, by rank."""
        return [share for group in self.groups for share in group]


def split(whole: range, parts: int) -> Iterator[range]:
    """Split a range into `parts` ranges, as evenly as possible; the first ones get the remainder."""
    ends = accumulate(split_evenly(len(whole), parts), initial=whole.start)
    return (range(*pair) for pair in pairwise(ends))


def assign(
    B: int, eval_B: int, n_workers: int, devices: Sequence[str] = ("cpu",), n_groups: int = 1
) -> list[Assignment]:
    """Divide environments and workers among devices, then groups, then the workers of a group."""
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
