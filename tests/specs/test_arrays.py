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


def test_the_part_of_a_space_that_is_refused_is_named():
    space = spaces.Dict(image=spaces.Box(0, 1, (2,)), rest=spaces.Tuple((spaces.Discrete(2), spaces.Text(3))))
    with pytest.raises(ConfigError, match=r"observation\['rest'\]\[1\], of the space Text.*leave it out"):
        space_specs(space, "observation")
    space = spaces.Dict(wide=spaces.Box(-1, 1, (2,), np.longdouble))
    with pytest.raises(ConfigError, match=r"action\['wide'\], of the space Box.*which no torch tensor has"):
        space_specs(space, "action")


def test_specs_have_the_byte_order_of_the_machine():
    for code in (">f4", ">i2", ">u8", "<f4"):
        assert space_specs(spaces.Box(0, 9, (2,), np.dtype(code))).dtype is np.dtype(code[1:])
    assert ArraySpec.of(np.zeros(2, ">f8")) == ArraySpec((2,), np.dtype("f8"))
