"""The one line that says which other sampler would be faster."""

import logging
import time

import numpy as np
import pytest

from aiosampler import AsyncSerialSampler, RandomAgent
from aiosampler.samplers.advice import Costs, Setting, advice, costs, cpu_seconds
from aiosampler.samplers.timeline import Timeline
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

US = 1e-6


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def setting(sampler, **changes):
    local = sampler in ("AsyncSerialSampler", "AsyncCpuSampler")
    defaults = {"serial": sampler == "AsyncSerialSampler", "acts_locally": local, "on_cpu": True}
    return Setting(sampler=sampler, **{**defaults, "B": 16, "workers": 2, "groups": 1, "cpus": 2, **changes})


@pytest.mark.parametrize(
    ("sampler", "times", "changes", "advised"),
    [
        ("AsyncGpuSampler", (300, 60, 40), {}, "AsyncCpuSampler with n_workers=2 would take about 70 us"),
        (
            "AsyncGpuSampler",
            (300, 60, 100),
            {"cpus": 1},
            "AsyncSerialSampler, without signals between processes, would",
        ),
        ("AsyncCpuSampler", (300, 60, 40), {}, "AsyncSerialSampler, without signals between processes, would take"),
        ("AsyncCpuSampler", (60, 60, 40), {}, None),
        ("AsyncSerialSampler", (220, 160, 50), {"workers": 1}, "AsyncCpuSampler with n_workers=2 would take about 130"),
        ("AsyncSerialSampler", (220, 160, 50), {"workers": 1, "cpus": 1}, None),
        ("AsyncSerialSampler", (220, 40, 170), {"workers": 1}, None),
        ("AsyncGpuSampler", (300, 60, 40), {"on_cpu": False}, None),
        ("AsyncGpuSampler", (110, 60, 40), {"cpus": 1}, None),
    ],
)
def test_a_sampler_is_advised_that_would_certainly_be_faster(sampler, times, changes, advised):
    cycle, steps, agent = times
    told = advice(Costs(cycle=cycle * US, steps=steps * US, agent=agent * US, idle=0.1), setting(sampler, **changes))
    assert told is None if advised is None else advised in told


@pytest.mark.parametrize(
    ("sampler", "changes", "advised"),
    [
        ("AsyncSerialSampler", {"workers": 1}, "AsyncGpuSampler with n_workers=16 would take about 1.5 ms"),
        ("AsyncCpuSampler", {"workers": 2}, "AsyncCpuSampler with n_workers=16"),
        ("AsyncCpuSampler", {"workers": 16}, None),
        ("AsyncAlternatingSampler", {"workers": 2, "B": 13, "groups": 2}, "AsyncAlternatingSampler with n_workers=12"),
        ("AsyncGpuSampler", {"workers": 2, "on_cpu": False}, "AsyncGpuSampler with n_workers=16"),
    ],
)
def test_environments_that_wait_are_advised_more_workers(sampler, changes, advised):
    workers = changes["workers"]
    times = Costs(cycle=16e-3 / workers + 5e-4, steps=16e-3, agent=4e-4, idle=0.95)
    told = advice(times, setting(sampler, **changes))
    assert told is None if advised is None else advised in told


def test_costs_are_those_of_a_time_step_of_all_environments():
    microseconds = 1000
    begin = np.arange(4) * 100 * microseconds + 1
    local = np.stack([begin, begin + 60 * microseconds], axis=-1)
    timeline = Timeline(np.stack([local, local]), np.zeros((0, 4, 5), np.int64))
    found = costs([timeline] * 3, [4e-4, 4e-4, 1.0], idle=None)
    assert (found.cycle, found.steps, found.agent) == pytest.approx((100 * US, 120 * US, 80 * US))

    stages = np.zeros((1, 4, 5), np.int64)
    stages[0, :, 1], stages[0, :, 2] = begin, begin + 25 * microseconds
    served = costs([Timeline(np.stack([local, local]), stages, [range(2)])], [4e-4], idle=None)
    assert (served.steps, served.agent) == pytest.approx((120 * US, 25 * US))


def test_the_time_of_a_process_that_is_gone_is_not_known():
    assert cpu_seconds([None]) is None


class SleepingEnv(CountingEnv):
    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_one_line_is_logged_after_the_first_batches_for_who_listens(level, caplog):
    caplog.set_level(level, logger="aiosampler")
    sampler = small(AsyncSerialSampler, SleepingEnv, agent=RandomAgent(), batch_T=3, batch_B=4)
    async with sampler:
        for _ in range(10):
            await sampler.obtain_samples()
    told = [record.getMessage() for record in caplog.records if "would take" in record.getMessage()]
    assert len(told) == (level == logging.INFO)
    assert all("AsyncGpuSampler with n_workers=4" in text for text in told)
