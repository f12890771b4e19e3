"""The arrays of the arena: each has its place and its name."""

import numpy as np

from aiosampler.memory.arena_map import ProcessCounts, arena_views, plan_arena
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import BatchSpec, StepSpecs


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
