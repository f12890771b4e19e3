"""Times and losses of a batch."""

from dataclasses import dataclass, field

from aiosampler.samplers.timeline import Timeline


@dataclass(frozen=True, slots=True)
class SampleStats:
    """Times and losses of one batch.

    Attributes:
        env_steps: Number of valid steps.
        seconds: Seconds that collecting took.
        timeline: When each process did what; a copy.
        lost_steps: Steps that are blank because a worker was lost.
        lost_episodes: Episodes that were lost with a worker: open, or ended in this batch but not reported yet.
        restarts: Workers, and environments of coroutines, that were lost since the last batch, and were replaced or
            will be; those that an evaluation finds are counted in `SamplerStatistics` alone.
        index: How many batches the sampler had returned before; -1 for what is no batch of one sampler.
    """

    env_steps: int
    seconds: float
    timeline: Timeline = field(repr=False)
    lost_steps: int = 0
    lost_episodes: int = 0
    restarts: int = 0
    index: int = -1

    @property
    def steps_per_second(self) -> float:
        """`env_steps` over `seconds`; 0 before a batch was collected."""
        return self.env_steps / self.seconds if self.seconds else 0.0
