"""What users define, pickled and brought back."""

import pickle
import random

import numpy as np
import pytest

from aiosampler.pickling import dumps


@pytest.mark.usefixtures("same_generators")
def test_functions_that_draw_from_global_generators_draw_from_those_of_the_process_they_come_to():
    draws = [np.random.rand, random.random]
    again = pickle.loads(dumps(draws))
    for seed in (3, 4):
        random.seed(seed), np.random.seed(seed)
        drawn = [draw() for draw in draws]
        random.seed(seed), np.random.seed(seed)
        assert [draw() for draw in again] == drawn


def test_generators_of_the_users_own_are_copied():
    ours = [np.random.RandomState(3).rand, random.Random(3).random, np.random.default_rng(3).random]
    copies = pickle.loads(dumps(ours))
    assert [draw() for draw in copies] == [draw() for draw in ours]
