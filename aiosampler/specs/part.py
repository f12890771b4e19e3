"""The position of a sampler among several equal ones, which together record what one large sampler would."""

from dataclasses import dataclass
from typing import Any

from aiosampler.errors import ConfigError
from aiosampler.specs.batch import as_integer


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


def as_part(value: Any, seed: Any) -> Part:
    """The argument `part` of a sampler, as a `Part`.

    Args:
        value: ``(k, n)``, or None for a sampler that is the only one.
        seed: That was given; all parts must have the same.

    Raises:
        ConfigError: It is no position, or there is no seed that others could have as well.
    """
    if value is None:
        return WHOLE
    try:
        index, n = value
    except (TypeError, ValueError):
        raise ConfigError(f"part must be a pair (k, n), such as (rank, world_size), got {value!r}") from None
    n = as_integer("n of part=(k, n)", n, 1)
    index = as_integer("k of part=(k, n)", index, 0)
    if index >= n:
        raise ConfigError(f"part=(k, n) must have k from 0 to n - 1, got {value!r}")
    if seed is None:
        raise ConfigError(f"part={value!r} needs a seed, the same for all {n} samplers")
    return Part(index, n)
