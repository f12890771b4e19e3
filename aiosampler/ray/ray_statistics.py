"""What samplers on Ray tell besides: which actor and node a batch came from, and how each actor does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiosampler.errors import SamplerError  # noqa: F401 - for the API pages, which name what is inherited
from aiosampler.samplers.sample_stats import SampleStats
from aiosampler.samplers.statistics import SamplerStatistics

if TYPE_CHECKING:
    from aiosampler.samplers.timeline import Timeline


@dataclass(frozen=True, slots=True)
class RaySampleStats(SampleStats):
    """How a batch was collected, and where.

    Attributes:
        actors: Indices of the actors that collected it: one, or with ``together=True`` all of them.
        nodes: Their nodes, as Ray's node ids.
    """

    actors: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, stats: SampleStats, actor: int, node: str) -> RaySampleStats:
        """Make them from the statistics of an actor's batch."""
        facts: dict[str, Any] = {each.name: getattr(stats, each.name) for each in dataclasses.fields(SampleStats)}
        timeline: Timeline = facts.pop("timeline")
        return cls(**facts, timeline=timeline, actors=(actor,), nodes=(node,))


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """How one actor does.

    Attributes:
        index: Which of this sampler's actors it is.
        node: Ray's id of its node; None while it is being placed.
        address: The IP address of that node.
        pid: Its process id there.
        batches: Batches that were obtained from it, and from those that it replaced.
        ahead: Batches that it was asked for and that were not obtained yet: they are being collected, or are ready.
        restarts: How many times it was replaced.
        policy_version: The version that it has received last.
    """

    index: int
    node: str | None
    address: str | None
    pid: int | None
    batches: int
    ahead: int
    restarts: int
    policy_version: int | None


@dataclass(frozen=True, slots=True)
class RayStatistics(SamplerStatistics):
    """What a sampler on Ray has done until now.

    `restarts` and `failures` count actors that were lost as well as workers that an actor's sampler lost.

    Attributes:
        actors: Each actor.
        lost_batches: Batches that were being collected, or were ready, when their actor was lost.
    """

    actors: tuple[ActorStatistics, ...] = ()
    lost_batches: int = field(default=0)

    @classmethod
    def of(cls, statistics: SamplerStatistics, actors: tuple[ActorStatistics, ...], lost_batches: int) -> RayStatistics:
        """Make them from those of a sampler."""
        facts = {each.name: getattr(statistics, each.name) for each in dataclasses.fields(SamplerStatistics)}
        return cls(**facts, actors=actors, lost_batches=lost_batches)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; see `SamplerStatistics.as_dict`."""
        plain = SamplerStatistics.as_dict(self)
        return {**plain, "actors": [dataclasses.asdict(actor) for actor in self.actors]}
