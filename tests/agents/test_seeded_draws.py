"""Models that are built beside others who draw have the parameters that they would have had alone."""

import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from aiosampler.agents.seeded_draws import SeededDraws
from aiosampler.workers.random_streams import seed_generators, undrawn

pytestmark = pytest.mark.usefixtures("same_generators")


def empty():
    return torch.empty(6, 40)


APART = {
    "Linear": lambda: nn.Linear(20, 30).weight,
    "Conv2d": lambda: nn.Conv2d(3, 8, 3).weight,
    "LSTM": lambda: nn.LSTM(5, 7).weight_hh_l0,
    "Embedding": lambda: nn.Embedding(10, 3).weight,
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2).linear1.weight,
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)).weight,
    "orthogonal_": lambda: nn.init.orthogonal_(empty()),
    "trunc_normal_": lambda: nn.init.trunc_normal_(empty()),
    "sparse_": lambda: nn.init.sparse_(empty(), 0.1),
    "xavier_normal_": lambda: nn.init.xavier_normal_(empty(), 2.0),
    "rand": lambda: torch.rand(7),
    "randn": lambda: torch.randn(33, dtype=torch.float64),
    "randint": lambda: torch.randint(0, 5, (9,)),
    "randperm": lambda: torch.randperm(9),
    "normal": lambda: torch.normal(torch.zeros(5), 1.0),
    "bernoulli": lambda: torch.full((9,), 0.5).bernoulli(),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 3),
    "exponential_": lambda: empty().exponential_(),
}
#: These draw from the global generators whatever is done.
NOT_APART = {
    "dropout": lambda: nn.functional.dropout(torch.ones(9)),
    "numpy": lambda: torch.from_numpy(np.random.rand(3)),
    "random": lambda: torch.tensor(random.random()),
}


@pytest.mark.parametrize("name", APART)
def test_the_numbers_are_those_of_the_global_generators_which_draw_none(name):
    def draw():
        APART[name]()
        return APART[name]().detach().clone()  # of what is drawn next as well

    seed_generators(3)
    alone = draw()
    seed_generators(4)
    with SeededDraws(3):
        assert draw().equal(alone)
    assert undrawn(4)
    draw()
    assert not undrawn(4)


@pytest.mark.parametrize("name", NOT_APART)
def test_what_draws_from_global_generators_all_the_same_is_found_out(name):
    seed_generators(3)
    with SeededDraws(3):
        NOT_APART[name]()
    assert not undrawn(3)


def test_looking_changes_nothing():
    seed_generators(3)
    undrawn(3), undrawn(4)
    drawn = random.random(), np.random.rand(), torch.rand(1)
    seed_generators(3)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1))


def test_other_threads_and_generators_that_were_given_draw_as_ever():
    torch.manual_seed(3)
    expected, given = torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(3)
    drawn = []
    with SeededDraws(7):
        thread = threading.Thread(target=lambda: drawn.append(torch.rand(3)))
        thread.start()
        thread.join()
        assert torch.rand(3, generator=torch.Generator().manual_seed(5)).equal(given)
    assert drawn[0].equal(expected)


def test_what_has_no_memory_draws_nothing():
    with SeededDraws(3), torch.device("meta"):
        assert nn.Linear(3, 3).weight.is_meta
