"""What environments return is written to its row, or refused where it does not fit."""

import math

import numpy as np
import pytest
import torch

from aiosampler.collectors.agent_answers import Recorder
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import AgentStepper
from aiosampler.collectors.recording import Mismatch, make_writer
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import tree_map
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.worlds import CountingEnv


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


def test_env_info_is_recorded_and_zero_where_it_is_not_reported():
    keys = ("doubled", "parity", "lengths")
    batch = gather(InProcess(CountingEnv, agent=LookingAgent(), batch_T=9, batch_B=2, seed=5, env_info_keys=keys), 2)[1]
    steps = batch.env.next_observation()[..., 2]
    assert torch.equal(batch.env.env_info["doubled"], 2.0 * steps)
    assert batch.env.env_info["parity"].dtype == torch.int8
    assert torch.equal(batch.env.env_info["lengths"]["steps"], torch.where(batch.env.done, steps, 0))


def test_integers_of_numpy_are_integers():
    sampler = InProcess(CountingEnv, agent=LookingAgent(), batch_T=np.int64(4), batch_B=np.uint8(2), seed=np.int32(5))
    assert sampler.collect().env.reward.shape == (4, 2)
    sampler.close()


def record_info(arrays, info):
    """Record what an agent gave for three environments in `arrays`, the only row of a slot."""
    slot = {
        "observation": np.zeros((2, 3), np.float32), "reward": np.zeros((1, 3), np.float32),
        "prev_reward": np.zeros((2, 3), np.float32), "action": np.zeros((1, 3), np.int64),
        "prev_action": np.zeros((2, 3), np.int64), "prev_env_info": {}, "initial_state": None, "bootstrap_value": None,
        "agent_info": {key: array[None] for key, array in arrays.items()},
    }  # fmt: skip
    AgentStepper(LookingAgent(), [slot]).record_info(0, info)


def test_a_flat_dict_is_written_by_key_and_converted_where_it_may_be():
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.int64)}
    given = {"b": torch.tensor([1, 2, 3]), "a": torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)}
    for info in (given, {"b": given["b"].numpy(), "a": given["a"].float()}):
        record_info(arrays, info)
        assert arrays["a"].tolist() == [4, 5, 6]
        assert arrays["b"].tolist() == [1, 2, 3]
        for array in arrays.values():
            array.fill(0)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "structure None"),
        (torch.zeros(2), "structure"),
        ({"a": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "c": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}, "structure"),
        ({"a": torch.zeros(3), "b": torch.zeros(1)}, r"agent_info\['b'\] with the shape \[1\], expected \[3\]"),
        ({"a": torch.zeros(3), "b": torch.zeros(3, dtype=torch.complex64)}, r"agent_info\['b'\] with the dtype"),
    ],
)
def test_a_flat_dict_that_does_not_fit_is_refused(info, message):
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(AgentFault, match=message):
        record_info(arrays, info)


def test_a_nested_dict_is_written_by_key():
    arrays = {"a": {"x": np.zeros(2), "y": np.zeros(2)}, "b": np.zeros(2)}
    tree = {"b": torch.tensor([1.0, 2.0]), "a": {"y": torch.tensor([3.0, 4.0]), "x": torch.tensor([5.0, 6.0])}}
    Recorder("agent_info", arrays).write((arrays["a"]["x"], arrays["a"]["y"], arrays["b"]), tree)
    assert arrays["a"]["x"].tolist() == [5, 6]
    assert arrays["a"]["y"].tolist() == [3, 4]
    assert arrays["b"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("dtype", "value", "found"),
    [
        ("int8", [1, 300], "300"),
        ("int8", np.array([200, 1], np.uint8), "200"),
        ("int32", np.array([1, 2**40]), "1099511627776"),
        ("int64", np.array([1, 2**63], np.uint64), "9223372036854775808"),
        ("uint8", [0, -1], "-1"),
        ("float16", [0.5, 1e6], "1000000.0"),
        ("float16", [1, 70_000], "70000"),
        ("float32", [-1e300, 0.0], r"-1e\+300"),
    ],
)
def test_numbers_that_the_space_has_no_room_for_are_refused(dtype, value, found):
    writer = make_writer(ArraySpec((2,), np.dtype(dtype)), "observation")
    with pytest.raises(Mismatch, match=rf"observation does not fit: expected {dtype}\[2\], got .* with {found}$"):
        writer.write(np.zeros((1, 2), dtype), 0, value)


def test_numbers_that_the_space_has_room_for_are_taken():
    for dtype, value in [("int8", [-128, 127]), ("float16", [np.inf, np.nan]), ("float32", [2**24, -np.inf])]:
        row = np.zeros((1, 2), dtype)
        make_writer(ArraySpec((2,), np.dtype(dtype)), "observation").write(row, 0, np.array(value))
        assert np.array_equal(row[0], np.array(value, dtype), equal_nan=dtype == "float16")
    row = np.zeros(1, np.int8)
    with pytest.raises(Mismatch, match=r"with 300$"):
        make_writer(ArraySpec((), np.dtype(np.int8)), "observation").write(row, 0, 300)


def test_tensors_with_a_gradient_are_taken():
    row = np.zeros((1, 2), np.float32)
    make_writer(ArraySpec((2,), row.dtype), "observation").write(row, 0, torch.ones(2, requires_grad=True))
    assert (row == 1).all()


@pytest.mark.parametrize("value", [128, -129, 300])
def test_an_action_that_the_dtype_of_its_space_has_no_room_for_is_refused(value):
    targets = [np.zeros((2, 1), np.int8)]
    recorder = Recorder("action", targets[0])
    assert recorder.write(targets, torch.tensor([[127], [-128]]))[0].tolist() == [[127], [-128]]
    with pytest.raises(AgentFault, match=f"returned action with {value}, for which int8 has no room"):
        recorder.write(targets, torch.tensor([[1], [value]]))
    assert targets[0].tolist() == [[127], [-128]]


def test_a_finite_number_of_an_agent_that_would_become_infinite_is_refused():
    targets = [np.zeros(3, np.float32)]
    recorder = Recorder("value", targets[0])
    recorder.write(targets, torch.tensor([1.0, math.inf, math.nan], dtype=torch.float64))
    assert str(targets[0].tolist()) == "[1.0, inf, nan]"
    with pytest.raises(AgentFault, match=r"returned value with 1e\+300, for which float32 has no room"):
        recorder.write(targets, torch.tensor([1.0, 1e300, 0.0], dtype=torch.float64))
