"""The position of a sampler among several equal ones, which together record what one large sampler would."""

from dataclasses import dataclass
from typing import Any

from aiosampler.errors import ConfigError
from aiosampler.specs.arguments import as_integer


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


def part_of_rank(rank: Any, n_ranks: Any, seed: Any) -> Part:
    """The arguments `rank` and `n_ranks` of a sampler, as a `Part`.

    Args:
        rank: Position of this sampler.
        n_ranks: Number of samplers.
        seed: That was given, which all ranks must have.

    Raises:
        ConfigError: There is no such position, or no seed that others could have as well.
    """
    n_ranks, rank = as_integer("n_ranks", n_ranks, 1), as_integer("rank", rank, 0)
    if rank >= n_ranks:
        raise ConfigError(f"rank={rank} must be below n_ranks={n_ranks}")
    if n_ranks > 1 and seed is None:
        raise ConfigError(f"n_ranks={n_ranks} needs a seed, the same in all ranks, or they would not fit together")
    return Part(rank, n_ranks)
