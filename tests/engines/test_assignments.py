"""Which worker steps which environments."""

import itertools

import pytest

from aiosampler.engines.assignments import assign

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


def test_environments_are_split_evenly_and_the_remainder_goes_to_the_first():
    (assignment,) = assign(7, 2, 3)
    assert [share.environments for share in assignment.shares] == [range(3), range(3, 5), range(5, 7)]
    assert [len(share.evaluation) for share in assignment.shares] == [1, 1, 0]
    for B, W, D, G in itertools.product(range(1, 12), range(1, 12), range(1, 4), (1, 2)):
        if D * G <= W <= B:
            shares = [share for assignment in assign(B, 0, W, ["cpu"] * D, G) for share in assignment.shares]
            assert [share.rank for share in shares] == list(range(W))
            assert [b for share in shares for b in share.environments] == list(range(B))
            assert all(share.environments for share in shares)
