"""The size of a batch."""

import pytest

from aiosampler import BatchSpec, ConfigError


@pytest.mark.parametrize(("T", "B"), [(0, 1), (1, 0), (2.5, 1), (True, 1), (1, "4")])
def test_a_batch_has_whole_dimensions_of_at_least_one(T, B):
    with pytest.raises(ConfigError, match=r"batch_[TB] must be an integer of at least 1, got"):
        BatchSpec(T=T, B=B)
