"""Where each array lies in the shared memory."""

import pickle

import numpy as np

from aiosampler.memory.layout import ALIGNMENT, plan
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import tree_items, tree_leaves

SPECS = {
    "a": ArraySpec((3, 5), np.dtype(np.uint8)),
    "b": (ArraySpec((), np.dtype(np.float64)), ArraySpec((0, 4), np.dtype(np.int32)), None),
    "c": {"d": ArraySpec((2,), np.dtype(np.bool_))},
}


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
