"""Random streams: a child of one `numpy.random.SeedSequence` for each purpose and index.

A stream depends only on the seed, its purpose and the global index. So neither the kind of sampler nor the number of
workers changes what an environment draws, and an evaluation does not change what training draws.
"""

from enum import IntEnum

import numpy as np

from aiosampler.specs.arguments import as_integer


class Stream(IntEnum):
    """What random numbers are drawn for; each entry has streams of its own."""

    ENV = 0
    EVAL_ENV = 1
    ACTION_NOISE = 2
    EVAL_ACTION_NOISE = 3
    AGENT_INIT = 4
    DECORRELATION = 5
    EXAMPLE = 6
    EXAMPLE_ACTIONS = 7
    GROUP_NOISE = 8
    EVAL_GROUP_NOISE = 9
    WORLD_NOISE = 10
    EVAL_WORLD_NOISE = 11
    RESUMED = 12
    RESET = 13
    EVAL_RESET = 14


def draw_seed() -> int:
    """A random seed, for a sampler that was given none: 128 bits from the system."""
    return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type] # it is drawn, and one integer


def seed_sequence(seed: int, stream: Stream, index: int = 0, generation: int = 0) -> np.random.SeedSequence:
    """The `SeedSequence` of a purpose and index; generations (replacements) after the first have others."""
    branch = (generation,) if generation else ()
    return np.random.SeedSequence(seed, spawn_key=(int(stream), index, *branch))


def stream_seed(seed: int, stream: Stream, index: int = 0, generation: int = 0) -> int:
    """A seed below 2**31 drawn from `seed_sequence`: many native environments take a signed 32-bit integer."""
    return _number(seed_sequence(seed, stream, index, generation))


def resumed_seed(seed: int, resumes: int) -> int:
    """The seed in use after a run with `seed` was resumed `resumes` times: 128 bits; `seed` itself if never."""
    if not resumes:
        return seed
    return int.from_bytes(seed_sequence(seed, Stream.RESUMED, resumes).generate_state(4, np.uint32).tobytes(), "little")


def environment_seed(
    seed: int, b: int, *, evaluation: bool = False, restarts: int = 0, resumes: int = 0, resets: int = 0
) -> int:
    """What environment `b` of a sampler with `seed` is given at its first ``reset(seed=...)``; below 2**31.

    Later resets go on with the environment's own stream, so stepping a fresh environment with the recorded actions
    from this seed replays the trajectory. With ``seed_every_reset=True`` each has a seed of its own.

    Args:
        seed: The sampler's seed.
        b: Index of the environment.
        evaluation: Whether `b` counts the evaluation environments.
        restarts: How many times the worker that has the environment was replaced before; each replacement draws from
            a fresh branch, or it would repeat the steps that led to the failure.
        resumes: How many times the run had been resumed (`load_state_dict`), the ``resumes`` of its `state_dict`.
        resets: How many times it was reset before, with ``seed_every_reset=True``.

    Raises:
        ConfigError: A number is no integer, or below 0.
    """
    seed, b = as_integer("seed", seed, 0), as_integer("b", b, 0)
    restarts, resumes = as_integer("restarts", restarts, 0), as_integer("resumes", resumes, 0)
    resets = as_integer("resets", resets, 0)
    entropy = resumed_seed(seed, resumes)
    if resets:
        branch = (Stream.EVAL_RESET if evaluation else Stream.RESET, b, restarts, resets)
        return _number(np.random.SeedSequence(entropy, spawn_key=tuple(map(int, branch))))
    return stream_seed(entropy, Stream.EVAL_ENV if evaluation else Stream.ENV, b, restarts)


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint32)[0]) & 0x7FFF_FFFF
