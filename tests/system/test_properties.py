"""Whatever the spaces, dtypes, memory layouts, ends and losses: a batch equals its replay, or the error names the key.

A short form runs with the other tests. The long form: ``python -m tests.system.test_properties --steps 1000000``.
"""

import argparse
import asyncio
import dataclasses
import time

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aiosampler import RandomAgent
from tests.support.in_process import InProcess
from tests.support.planned import Plan, PlannedEnv, Replay, with_fault
from tests.support.samplers import EVERYWHERE, PARALLEL

BOX_DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64]
BOX_DTYPES += [np.uint8, np.uint16, np.uint32, np.uint64]
KEYS = ("image", "pose", "a b", "θ")


def box(shape, dtype):
    dtype = np.dtype(dtype)
    limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(*limits, shape, dtype)


shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
boxes = st.builds(box, shapes, st.sampled_from(BOX_DTYPES))
discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-5, 5))
multi_discrete = st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=3))
multi_binary = st.builds(spaces.MultiBinary, st.integers(1, 4))
leaf_spaces = st.one_of(boxes, discrete, multi_discrete, multi_binary)
finite_boxes = st.builds(
    lambda shape, dtype: spaces.Box(-1, 1, shape, dtype), shapes, st.sampled_from([np.float32, np.float64])
)
action_leaves = st.one_of(discrete, multi_discrete, multi_binary, finite_boxes)


def nested(leaf):
    return st.recursive(
        leaf,
        lambda child: st.one_of(
            st.dictionaries(st.sampled_from(KEYS), child, min_size=1, max_size=3).map(spaces.Dict),
            st.lists(child, min_size=1, max_size=3).map(spaces.Tuple),
        ),
        max_leaves=5,
    )


plans = st.builds(
    Plan, observation_space=nested(leaf_spaces), action_space=nested(action_leaves), longest=st.integers(1, 9)
)
arguments = st.fixed_dictionaries(
    {
        "batch_T": st.integers(1, 9),
        "batch_B": st.integers(2, 4).map(lambda half: 2 * half),
        "mid_batch_reset": st.booleans(),
        "seed": st.integers(0, 2**64),
    }
)


def examples(count, **more):
    """Settings for examples that take long, the same in each run."""
    options = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    options |= {"phases": (Phase.generate, Phase.shrink), "report_multiple_bugs": False}
    return settings(max_examples=count, **{**options, **more})


def world(plan, arguments):
    return {
        "env_fn": PlannedEnv,
        "env_kwargs": {"plan": plan},
        "agent": RandomAgent(),
        "env_info_keys": ("count",),
        **arguments,
    }


def replay(plan, arguments, **more):
    return Replay(plan, arguments["seed"], arguments["batch_B"], mid_batch_reset=arguments["mid_batch_reset"], **more)


def collect_in_process(plan, arguments, batches):
    runner = InProcess(**world(plan, arguments))
    try:
        expected = replay(plan, arguments)
        for _ in range(batches):
            expected.check(runner.collect())
    finally:
        runner.close()
    return expected.steps


async def collect(kind, plan, arguments, batches, *, restarts=False):
    more = {"start_method": "fork"}
    if restarts:
        # A first observation that is told from that of any other generation of its environment
        space = spaces.Tuple((plan.observation_space, box((2,), np.float64)))
        plan = dataclasses.replace(plan, observation_space=space, crash_every=20)
        more["max_worker_restarts"] = 10_000
    async with EVERYWHERE[kind](**world(plan, arguments), **more) as sampler:
        expected = replay(plan, arguments, restarts=restarts)
        for _ in range(batches):
            expected.check(await sampler.obtain_samples())
        while restarts and not sampler.statistics().restarts:
            expected.check(await sampler.obtain_samples())
    return expected.steps


@examples(60)
@given(plans, arguments)
def test_a_batch_equals_its_replay(plan, arguments):
    collect_in_process(plan, arguments, 3)


@pytest.mark.each_kind
@pytest.mark.parametrize("kind", EVERYWHERE)
def test_a_batch_of_any_sampler_equals_its_replay(kind, no_leaks):
    @examples(2)
    @given(plans, arguments)
    def check(plan, arguments):
        asyncio.run(collect(kind, plan, arguments, 4))

    check()


@pytest.mark.each_kind
@pytest.mark.parametrize("kind", PARALLEL)
def test_what_is_kept_of_lost_workers_equals_its_replay(kind, no_leaks):
    @examples(2)
    @given(plans, arguments)
    def check(plan, arguments):
        asyncio.run(collect(kind, plan, arguments, 6, restarts=True))

    check()


def paths(space, path=()):
    """The keys to each leaf of a space, and the leaf's space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return [found for key, child in children for found in paths(child, (*path, key))]
    return [(path, space)]


FAULTS = [None, "text", b"bytes", {}, np.zeros((4, 4, 4, 4)), np.array([1 + 2j]), [[1.0], [2.0, 3.0]], object()]


@examples(40)
@given(plans, arguments, st.data())
def test_what_does_not_fit_is_refused_by_the_name_of_its_key(plan, arguments, data):
    path, _ = data.draw(st.sampled_from(paths(plan.observation_space)))
    plan = with_fault(dataclasses.replace(plan, longest=1000), path, data.draw(st.sampled_from(FAULTS)))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is looked at below
        collect_in_process(plan, {**arguments, "batch_T": 9}, 1)
    errors = [caught.value, caught.value.__cause__]
    name = "observation" + "".join(f"[{key!r}]" for key in path)
    assert any(name in str(error) for error in errors), errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="to take in all")
    parser.add_argument("--seconds", type=float, default=1800.0)
    options = parser.parse_args()
    taken, worlds, began = 0, 0, time.monotonic()

    @examples(5, derandomize=False)
    @given(plans, arguments, st.sampled_from([*EVERYWHERE]), st.booleans())
    def check(plan, arguments, kind, restarts):
        nonlocal taken, worlds
        taken += asyncio.run(collect(kind, plan, arguments, 40, restarts=restarts and kind in PARALLEL))
        taken += sum(collect_in_process(plan, {**arguments, "seed": seed}, 60) for seed in range(5))
        worlds += 1

    while taken < options.steps and time.monotonic() - began < options.seconds:
        check()
        print(f"{taken:,} steps in {worlds} worlds of random spaces equal their replay", flush=True)


if __name__ == "__main__":
    main()
