"""Every sampler against the serial loop, bit for bit."""

import functools

import pytest

from aiosampler import (
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    AsyncSerialSampler,
)
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same
from tests.support.worlds import CountingEnv, DetailedTrajInfo, NestedEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


two_devices = {"device": ["cpu", "cpu"]}
#: Each kind with numbers of workers, of which some are slow: they say the same once more, of more processes.
ARRANGEMENTS = [
    pytest.param(functools.partial(kind, n_workers=n, **more), id=f"{name}-{n}", marks=[pytest.mark.slow] * (n in slow))
    for name, kind, more, counts, slow in (
        ("cpu", AsyncCpuSampler, {}, (1, 2, 3, 8), (1, 8)),
        ("gpu", AsyncGpuSampler, {}, (1, 2, 3, 8), (2, 8)),
        ("devices", AsyncGpuSampler, two_devices, (2, 3), (2,)),
        ("alternating", AsyncAlternatingSampler, {}, (2, 4, 8), (2, 8)),
        ("alternating-devices", AsyncAlternatingSampler, two_devices, (4,), ()),
        ("no-overlap", AsyncNoOverlapAlternatingSampler, {}, (2, 4, 8), (4, 8)),
        ("no-overlap-devices", AsyncNoOverlapAlternatingSampler, two_devices, (4,), (4,)),
    )
    for n in counts
] + [pytest.param(functools.partial(AsyncSerialSampler, in_process=True), id="in-process")]


@pytest.mark.each_value
@pytest.mark.parametrize("kind", ARRANGEMENTS)
@pytest.mark.parametrize(
    ("env_fn", "agent", "mid_batch_reset"),
    [
        pytest.param(CountingEnv, AgeAgent, True, id="recurrent-reset"),
        pytest.param(CountingEnv, AgeAgent, False, id="recurrent-wait-reset", marks=pytest.mark.slow),
        pytest.param(NestedEnv, LookingAgent, True, id="nested-reset", marks=pytest.mark.slow),
        pytest.param(NestedEnv, LookingAgent, False, id="nested-wait-reset"),
    ],
)
async def test_batches_are_the_serial_ones_bit_for_bit(kind, mid_batch_reset, env_fn, agent):
    arguments = {
        "agent": agent(), "batch_T": 6, "batch_B": 8, "seed": 3, "bootstrap_value": True, "eval_n_envs": 5,
        "eval_max_steps": 400, "eval_max_trajectories": 13, "mid_batch_reset": mid_batch_reset,
        "env_info_keys": ("doubled", "lengths"), "traj_info_kwargs": {"discount": 0.9}, "max_decorrelation_steps": 9,
    }  # fmt: skip
    if env_fn is CountingEnv:
        arguments["traj_info_cls"], arguments["traj_info_kwargs"] = DetailedTrajInfo, {"label": "x"}
    expected = InProcess(env_fn, **arguments)
    async with kind(env_fn, **arguments, start_method="fork") as sampler:
        for itr in range(7):
            assert_same(await sampler.obtain_samples(), expected.collect())
            if itr in (2, 3):
                infos = await sampler.evaluate_agent()
                assert len(infos) == 13
                assert sorted(map(repr, infos)) == sorted(map(repr, expected.evaluate()))
    expected.close()
