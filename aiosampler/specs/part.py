"""The position of a sampler among several equal ones, which together record what one large sampler would."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """The position of a sampler among n samplers of the same size.

    Sampler `index`, with B environments, has environments ``index * B`` to ``index * B + B - 1`` of all n * B; it seeds
    them, and passes them to `env_fn` and the agent, by these numbers. So together the samplers record what one sampler
    with n * B environments, and n times the workers, would record.

    Attributes:
        index: Position of this sampler, 0 to n - 1.
        n: Number of samplers.
        restarts: How many samplers, or workers of them, were lost at this position before. Each replacement uses random
            streams of its own.
    """

    index: int = 0
    n: int = 1
    restarts: int = 0

    def first(self, each: int) -> int:
        """The global index of the first item of this sampler, if each sampler has `each` items."""
        return self.index * each

    def all(self, each: int) -> int:
        """The number of items of all samplers, if each has `each`."""
        return self.n * each


#: The position of a sampler that is the only one.
WHOLE = Part()
