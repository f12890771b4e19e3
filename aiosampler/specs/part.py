"""Which of several equal samplers one is, that together are as one with all of their environments."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """The place of a sampler among n of the same size.

    Each of them seeds, and names to `env_fn` and the agent, the environments that it has among those of all: sampler
    `index` of those with B environments has ``index * B`` to ``index * B + B - 1`` of n * B. So together they record
    what one sampler with n * B environments, and n times the workers, would record.

    Attributes:
        index: Which of them it is, from 0.
        n: How many there are.
        restarts: How many samplers, or workers of them, were lost in this place before. Each begins branches of the
            random streams that are its own.
    """

    index: int = 0
    n: int = 1
    restarts: int = 0

    def first(self, each: int) -> int:
        """The number of the first thing that this sampler has among those of all, where each sampler has some."""
        return self.index * each

    def all(self, each: int) -> int:
        """How many things all samplers have, where each has some."""
        return self.n * each


#: The part of a sampler that is alone.
WHOLE = Part()
