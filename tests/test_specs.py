import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import BatchSpec, ConfigError, environment_seed
from aiosampler.collectors.recording import Mismatch, make_writer
from aiosampler.specs.arrays import ArraySpec, space_specs
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.specs.trees import tree_map


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


@pytest.mark.parametrize(("T", "B"), [(0, 1), (1, 0), (2.5, 1), (True, 1), (1, "4")])
def test_a_batch_has_whole_dimensions_of_at_least_one(T, B):
    with pytest.raises(ConfigError, match=r"batch_[TB] must be an integer of at least 1, got"):
        BatchSpec(T=T, B=B)


def test_seeds_differ_by_stream_and_environment_and_nothing_else():
    seeds = [stream_seed(seed, stream, b) for seed in (0, 1) for stream in Stream for b in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert environment_seed(3, 7) == environment_seed(3, 7) != environment_seed(3, 7, evaluation=True)


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (
            ArraySpec((2,), np.dtype("f4")),
            np.zeros((2, 1), "f4"),
            r"expected float32\[2\], got float32\[2, 1\]",
        ),
        (ArraySpec((2,), np.dtype("f4")), np.zeros(1, "f4"), "expected"),
        (ArraySpec((2,), np.dtype("f4")), 1.0, "expected"),
        (ArraySpec((2,), np.dtype("u1")), np.zeros(2), r"expected uint8\[2\], got float64\[2\]"),
        (ArraySpec((2,), np.dtype("u1")), np.array([0, 256]), "expected"),
        (ArraySpec((2,), np.dtype("u1")), np.array([0, -1]), "expected"),
        (ArraySpec((), np.dtype("i8")), "three", "expected"),
        ({"a": ArraySpec((), np.dtype("i8"))}, {"b": 1}, r"expected the keys \['a'\]"),
        ({"a": ArraySpec((), np.dtype("i8"))}, 5, "expected the keys"),
        ((ArraySpec((), np.dtype("i8")),), (1, 2), "expected 1 items"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_broadcast(spec, value, words):
    writer = make_writer(spec, "observation")
    row = writer.rows(tree_map(lambda s: np.zeros((1, 3, *s.shape), s.dtype), spec))[0]
    with pytest.raises(Mismatch, match=words):
        writer.write(row, 1, value)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (ArraySpec((2,), np.dtype("f4")), np.array([0.5, 2.0])),
        (ArraySpec((2,), np.dtype("f4")), [1.0, 2.0]),
        (ArraySpec((), np.dtype("i8")), 5),
        (ArraySpec((), np.dtype("i8")), np.int32(5)),
        (ArraySpec((2,), np.dtype("u1")), [0, 255]),
    ],
)
def test_what_converts_without_loss_of_kind_is_taken(spec, value):
    writer = make_writer(spec, "observation")
    array = np.zeros((1, 3, *spec.shape), spec.dtype)
    writer.write(writer.rows(array)[0], 1, value)
    assert np.array_equal(array[0, 1], value)
