"""The table of a slot's fields: all else that knows of fields follows from it."""

import dataclasses

import numpy as np
import pytest
import torch

from aiosampler.collectors.env_infos import EnvInfoWriter
from aiosampler.collectors.recording import make_writer
from aiosampler.collectors.slot_rows import SlotRows
from aiosampler.engines.losses import blank as blank_lost
from aiosampler.memory import slot as table
from aiosampler.memory.arena_map import ProcessCounts, arena_views, plan_arena
from aiosampler.memory.slot import FIELDS, Axes, Blank, Field, Part, columns, poison, slot_specs
from aiosampler.samplers import samples as samples_module
from aiosampler.samplers.samples import SlotSamples
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs
from aiosampler.specs.trees import tree_leaves, tree_map

T, B = 4, 6
VECTOR, NUMBER = ArraySpec((3,), np.dtype(np.int64)), ArraySpec((), np.dtype(np.int64))
STEP = StepSpecs(
    observation={"a": VECTOR, "b": NUMBER},
    action=NUMBER,
    agent_info={"look": NUMBER},
    env_info={"note": NUMBER},
    state=VECTOR,
    value=ArraySpec((), np.dtype(np.float32)),
)


@pytest.fixture(params=["as it is", "with a field more"])
def fields(request, monkeypatch):
    """The table, and the table with a field that nothing but it knows of."""
    if request.param == "as it is":
        return FIELDS
    foo = Field(name="foo", axes=Axes.STEPS, element=lambda step: ArraySpec((), np.dtype(np.float32)), part=Part.ENV)
    monkeypatch.setattr(table, "FIELDS", (*FIELDS, foo))

    @dataclasses.dataclass(frozen=True, slots=True)
    class EnvSamples(samples_module.EnvSamples):
        foo: torch.Tensor

    monkeypatch.setattr(samples_module, "EnvSamples", EnvSamples)
    return table.FIELDS


def views():
    layout = plan_arena(BatchSpec(T=T, B=B), STEP, None, ProcessCounts(1), BatchSpec(T=T, B=2))
    return arena_views(layout, bytearray(layout.total_bytes))


def numbered(slot):
    """Each element of each field has a value that is not zero."""
    for array in tree_leaves(slot):
        array[...] = np.arange(1, array.size + 1).reshape(array.shape) % 100 + 1
    return slot


def leaves(slot, **facts):
    """The arrays of the fields of which the facts hold."""
    return [
        array
        for field in table.FIELDS
        if all(getattr(field, name) == fact for name, fact in facts.items())
        for array in tree_leaves(slot[field.name])
    ]


def test_names_are_told_apart_and_each_field_has_its_place_in_the_arena(fields):
    names = [field.name for field in fields]
    assert len(names) == len(set(names))
    arena = views()
    for slot, n in ((arena.slots[0], B), (arena.slots[1], B), (arena.evaluation_slot, 2)):
        assert set(slot) == set(names)
        leading = {
            Axes.STEPS: (T, n), Axes.STEPS_AND_NEXT: (T + 1, n), Axes.ENVIRONMENTS: (n,), Axes.ENDS: (n, T),
        }  # fmt: skip
        for field in fields:
            for array in tree_leaves(slot[field.name]):
                assert array.shape[: len(leading[field.axes])] == leading[field.axes]
    assert arena.evaluation_slot["bootstrap_value"] is None  # values are not asked for there


def test_the_columns_of_a_worker_are_its_environments(fields):
    slot = numbered(views().slots[0])
    part = columns(slot, 2, 3)
    for array in tree_leaves(part):
        array.fill(0)
    for field in fields:
        for array in tree_leaves(slot[field.name]):
            by_environment = array if field.axes in (Axes.ENVIRONMENTS, Axes.ENDS) else array.swapaxes(0, 1)
            assert not by_environment[2:5].any()
            assert by_environment[:2].all()
            assert by_environment[5:].all()


def test_the_user_sees_each_field_under_its_name_in_its_part(fields):
    slot = numbered(views().slots[0])
    samples = SlotSamples(slot).empty()
    assert samples.stats.steps_per_second == 0
    parts = {Part.SAMPLES: samples, Part.AGENT: samples.agent, Part.ENV: samples.env}
    names = {part: {field.name for field in dataclasses.fields(kind)} for part, kind in parts.items()}
    for field in fields:
        if field.part is Part.HIDDEN:
            continue
        names[field.part].discard(field.name)
        got = getattr(parts[field.part], field.name)
        for tensor, array in zip(tree_leaves(got), tree_leaves(slot[field.name]), strict=True):
            rows = T if field.axes is Axes.STEPS_AND_NEXT else len(array)
            assert np.array_equal(tensor.numpy(), array[:rows])
            assert np.shares_memory(tensor.numpy(), array)
        if field.next_name:
            names[field.part].discard(field.next_name)
            got = tree_map(lambda tensor: tensor.numpy(), getattr(parts[field.part], field.next_name))
            for tensor, array in zip(tree_leaves(got), tree_leaves(slot[field.name]), strict=True):
                assert np.array_equal(tensor, array[T])
    facts = {"agent", "env", "traj_infos", "itr", "policy_version", "stats"}
    assert names == {Part.SAMPLES: facts, Part.AGENT: {"final_value"}, Part.ENV: {"final_observation"}}


def test_what_is_shown_is_poisoned(fields):
    slot = views().slots[0]
    poison(slot)
    for field in fields:
        for array in tree_leaves(slot[field.name]):
            assert array.astype(bool).all() == (field.part is not Part.HIDDEN)  # NaN counts as true


def rows(slot):
    return SlotRows(slot, make_writer(STEP.observation, "observation"), EnvInfoWriter(STEP.env_info))


def test_a_batch_begins_with_the_row_that_was_kept_and_with_what_must_be_cleared(fields):
    one, two = (numbered(slot) for slot in views().slots)
    before = tree_map(np.copy, two)
    kept = rows(one).row_like()
    rows(one).keep(T, kept)
    rows(two).begin(kept)
    for field in fields:
        for array, last, old in zip(*(tree_leaves(slot[field.name]) for slot in (two, one, before)), strict=True):
            if field.axes is Axes.STEPS_AND_NEXT:
                assert np.array_equal(array[0], last[T])
                rest = old[1:] if field.cleared_to is None else np.full_like(old[1:], field.cleared_to)
                assert np.array_equal(array[1:], rest)
            elif field.cleared_to is None:
                assert np.array_equal(array, old)
            else:
                assert (array == field.cleared_to).all()


def assert_blank(fields, slot, before, start, i):
    for field in fields:
        for array, old in zip(tree_leaves(slot[field.name]), tree_leaves(before[field.name]), strict=True):
            expected = old.copy()
            if field.blank in (Blank.ROWS, Blank.ROWS_AT_ONCE):
                expected[start:, i] = 0
            elif field.blank is Blank.ELEMENT or (field.blank is Blank.ELEMENT_OF_EMPTY and start == 0):
                expected[i] = 0
            assert np.array_equal(array, expected), field.name


@pytest.mark.parametrize("start", [0, 2, T])
def test_an_environment_that_waits_is_blank_from_there_on_and_no_other_is(fields, start):
    slot = numbered(views().slots[0])
    slot["done"][...] = slot["terminated"] | slot["truncated"]
    before = tree_map(np.copy, slot)
    ours = rows(slot)
    ours.wait(start, 3)
    assert not any(array[start:, 3].any() for array in leaves(slot, blank=Blank.ROWS_AT_ONCE))
    ours.finish([(3, start)], ())
    assert_blank(fields, slot, before, start, 3)


def test_an_environment_whose_worker_was_lost_is_blank_as_one_that_waits_is(fields):
    slot = numbered(views().slots[0])
    slot["terminated"][...] = slot["truncated"][...] = False
    slot["done"][...] = False
    before = tree_map(np.copy, slot)
    assert blank_lost(columns(slot, 3, 1), np.arange(T) < 2, waits=False)[:2] == (T - 2, 0)
    before["final_count"][3] = 0
    assert_blank(fields, slot, before, 2, 3)


def test_a_field_has_rows_to_blank_if_it_has_rows(fields):
    for field in fields:
        by_time = field.axes in (Axes.STEPS, Axes.STEPS_AND_NEXT)
        assert by_time == (field.blank in (Blank.ROWS, Blank.ROWS_AT_ONCE))
        assert field.next_name is None or field.axes is Axes.STEPS_AND_NEXT


def test_only_what_is_sparse_is_left_out_of_the_memory_that_is_reserved(fields):
    batch = BatchSpec(T=T, B=B)
    dense, sparse = slot_specs(batch, STEP, sparse=False), slot_specs(batch, STEP, sparse=True)
    assert {*dense, *sparse} == {field.name for field in fields}
    assert list(sparse) == ["final_observation", "final_value"]
