"""Each environment and each stream has a seed of its own."""

import numpy as np
import pytest

from aiosampler import ConfigError, environment_seed
from aiosampler.specs.seeding import Stream, stream_seed


def test_seeds_differ_by_stream_and_environment_and_nothing_else():
    seeds = [stream_seed(seed, stream, b) for seed in (0, 1) for stream in Stream for b in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert environment_seed(3, 7) == environment_seed(3, 7) != environment_seed(3, 7, evaluation=True)


def test_the_seed_of_each_generation_is_another():
    assert len({environment_seed(1, 2, restarts=g, evaluation=e) for g in range(5) for e in (True, False)}) == 10
    assert environment_seed(1, 2, restarts=0) == environment_seed(1, 2)


def test_numbers_of_numpy_are_taken_and_others_named():
    assert environment_seed(np.int64(3), np.int32(7)) == environment_seed(3, 7)
    for arguments, name in ((("x", 0), "seed"), ((3, -1), "b"), ((3, 1.0), "b")):
        with pytest.raises(ConfigError, match=f"{name} must be an integer of at least 0"):
            environment_seed(*arguments)
