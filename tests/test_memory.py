import os
import pickle
import stat

import numpy as np
import pytest

from aiosampler import ArenaError
from aiosampler.memory import arena as arena_module
from aiosampler.memory.arena import Arena
from aiosampler.memory.layout import ALIGNMENT, plan
from aiosampler.specs.arrays import ArraySpec
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
    assert [path for path, _ in tree_items(views["dense"])] == ["['a']", "['b'][0]", "['b'][1]", "['c']['d']"]
    for number, view in enumerate(tree_leaves(views), 1):
        view[...] = number
    for number, view in enumerate(tree_leaves(views), 1):
        assert (view == np.array(number).astype(view.dtype)).all()
    assert all(placed.offset % ALIGNMENT == 0 for placed in tree_leaves(layout.arrays))
    assert all(placed.offset >= layout.dense_bytes for placed in tree_leaves(layout.arrays["sparse"]))


def test_a_layout_survives_its_pickle_with_numpys_own_dtypes():
    layout = pickle.loads(pickle.dumps(plan(SPECS, {})))
    assert layout == plan(SPECS, {})
    assert layout.arrays["dense"]["a"].spec.dtype is np.dtype(np.uint8)


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
