import os
import pickle
import stat

import numpy as np
import pytest

from aiosampler import ArenaError
from aiosampler.memory import arena as arena_module
from aiosampler.memory.arena import Arena
from aiosampler.memory.arena_map import ProcessCounts, arena_views, plan_arena
from aiosampler.memory.layout import ALIGNMENT, plan
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs
from aiosampler.specs.trees import tree_items, tree_leaves

SPECS = {
    "a": ArraySpec((3, 5), np.dtype(np.uint8)),
    "b": (ArraySpec((), np.dtype(np.float64)), ArraySpec((0, 4), np.dtype(np.int32)), None),
    "c": {"d": ArraySpec((2,), np.dtype(np.bool_))},
}


@pytest.fixture(params=["memfd", "file"])
def descriptor_kind(request, monkeypatch):
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create")
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd_create")
    return request.param


def test_a_layout_is_a_function_of_the_specs_and_its_arrays_do_not_touch():
    layout = plan(SPECS, {"rare": ArraySpec((7,), np.dtype(np.int64))})
    assert layout == plan(SPECS, {"rare": ArraySpec((7,), np.dtype(np.int64))})
    views = layout.views(bytearray(layout.total_bytes))
    assert [path for path, _ in tree_items(views.dense)] == ["['a']", "['b'][0]", "['b'][1]", "['c']['d']"]
    for number, view in enumerate(tree_leaves(views), 1):
        view[...] = number
    for number, view in enumerate(tree_leaves(views), 1):
        assert (view == np.array(number).astype(view.dtype)).all()
    assert all(placed.offset % ALIGNMENT == 0 for placed in tree_leaves((layout.dense, layout.sparse)))
    assert all(placed.offset >= layout.dense_bytes for placed in tree_leaves(layout.sparse))


def test_a_layout_survives_its_pickle_with_numpys_own_dtypes():
    layout = pickle.loads(pickle.dumps(plan(SPECS, {})))
    assert layout == plan(SPECS, {})
    assert layout.dense["a"].spec.dtype is np.dtype(np.uint8)


def test_two_mappings_of_an_arena_are_the_same_memory(descriptor_kind):
    arena = Arena()
    arena.grow(1 << 20, 1 << 16)
    one, two = arena.map(1 << 20), arena.map(1 << 20)
    one[12345] = 77
    assert two[12345] == 77
    name = os.readlink(f"/proc/self/fd/{arena._descriptor}")
    assert name.endswith("(deleted)")  # nobody else can open it
    status = os.fstat(arena._descriptor)
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 0)
    arena.close()
    arena.close()
    one[1] = 3  # a mapping outlives the descriptor


@pytest.mark.parametrize("nbytes", [1 << 50, 1 << 62])
def test_memory_that_cannot_be_had_is_refused_with_its_size(descriptor_kind, nbytes):
    arena = Arena()
    with pytest.raises(ArenaError, match=f"{nbytes:,} bytes"):
        arena.grow(nbytes, nbytes)
    arena.close()


def test_what_the_system_says_against_it_is_passed_on(monkeypatch):
    monkeypatch.setattr(arena_module, "available_memory", lambda: None)  # where it cannot be told beforehand
    arena = Arena(os.open("/dev/null", os.O_RDWR))
    with pytest.raises(ArenaError, match=r"8,192 bytes of shared memory.*cannot be had \(.*Invalid argument"):
        arena.grow(8192, 4096)
    with pytest.raises(ArenaError, match="cannot map"):
        arena.map(8192)
    arena.close()


def test_the_arrays_of_an_arena_go_by_name_and_do_not_touch():
    box = ArraySpec((3,), np.dtype(np.float32))
    step = StepSpecs(
        observation=box,
        action=ArraySpec((), np.dtype(np.int64)),
        agent_info=None,
        env_info=None,
        state=None,
        value=None,
    )
    counts = ProcessCounts(workers=4, servers=2, groups=2)
    layout = plan_arena(BatchSpec(T=5, B=8), step, None, counts, BatchSpec(T=7, B=2))
    buffer = bytearray(layout.total_bytes)
    views, again = arena_views(layout, buffer), arena_views(layout, buffer)
    assert [slot["observation"].shape for slot in views.slots] == [(6, 8, 3), (6, 8, 3)]
    assert views.evaluation_slot["final_observation"].shape == (2, 7, 3)
    assert views.progress.shape[0] == 4 + 2 + 1
    assert [clock.shape for clock in (*views.step_clocks, *views.stage_clocks)] == [(4, 5, 2)] * 2 + [(2, 5, 5)] * 2
    views.control.restarts[:] = 7
    assert views.control.abort_batch.tolist() == views.control.abort_evaluation.tolist() == [0]
    again.control.abort_all()
    assert views.control.abort_batch.tolist() == views.control.abort_evaluation.tolist() == [1]
    assert views.control.restarts.tolist() == [7] * 6
    again.slots[1]["final_observation"].fill(2)
    assert (views.slots[1]["final_observation"] == 2).all()
    assert not views.slots[0]["final_observation"].any()
