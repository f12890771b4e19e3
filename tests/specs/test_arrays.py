"""Spaces become arrays of a fixed shape and dtype, or are refused."""

import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import ConfigError
from aiosampler.specs.arrays import ArraySpec, space_specs


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Box(-1, 1, (2, 3), np.float32), (2, 3), "f4"),
        (spaces.Box(0, 255, (4,), np.uint16), (4,), "u2"),
        (spaces.Discrete(4, start=-2), (), "i8"),
        (spaces.MultiDiscrete([2, 3]), (2,), "i8"),
        (spaces.MultiBinary((2, 2)), (2, 2), "i1"),
    ],
)
def test_specs_of_spaces(space, shape, dtype):
    assert space_specs(space) == ArraySpec(shape, np.dtype(dtype))
    nested = spaces.Dict(x=space, y=spaces.Tuple((space, space)))
    assert space_specs(nested) == {"x": space_specs(space), "y": (space_specs(space),) * 2}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))),
        spaces.Dict(),
        spaces.Tuple(()),
        spaces.Dict(inner=spaces.Text(3)),
        spaces.Box(-1, 1, (2,), np.longdouble),
        "Box",
    ],
    ids=str,
)
def test_spaces_without_a_fixed_shape_are_refused_in_a_sentence(space):
    with pytest.raises(ConfigError, match="space"):
        space_specs(space)
