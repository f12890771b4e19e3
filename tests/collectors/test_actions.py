"""Actions reach environments as the space's own `sample()` gives them."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from aiosampler.collectors.actions import action_splitter
from aiosampler.specs.trees import tree_map

BOX = spaces.Box(-1, 1, (2,), np.float32)
SCALAR = spaces.Box(-1, 1, (), np.float64)
SPACES = [
    spaces.Discrete(3, start=-1),
    spaces.Discrete(3, dtype=np.int32),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    BOX,
    SCALAR,
    spaces.Dict(a=spaces.Discrete(3), b=SCALAR, c=spaces.Tuple((BOX, spaces.MultiBinary(2)))),
    spaces.Tuple((spaces.Dict(a=SCALAR), spaces.Discrete(2))),
]


def kinds(tree):
    return tree_map(lambda leaf: (type(leaf), np.shape(leaf), leaf.dtype), tree)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_actions_are_of_the_types_of_samples(space):
    drawn = batch_space(space, 4).sample()
    actions = action_splitter(space)(drawn)
    assert len(actions) == 4
    for i, action in enumerate(actions):
        assert kinds(action) == kinds(space.sample())
        assert space.contains(action)
        tree_map(lambda leaf, whole, i=i: np.testing.assert_array_equal(leaf, whole[i]), action, drawn)
