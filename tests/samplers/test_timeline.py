"""What the clocks of the processes say: who steps while who infers."""

import functools
import json
import time

import gymnasium as gym
import numpy as np
import pytest

from aiosampler import (
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    RandomAgent,
    SamplerError,
)
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


class SleepingEnv(CountingEnv):
    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


class SleepingAgent(RandomAgent):
    def step(self, inputs, state):
        time.sleep(0.004)
        return super().step(inputs, state)


async def timeline(kind, n_workers):
    sampler = small(kind, SleepingEnv, agent=SleepingAgent(), batch_T=10, batch_B=16, n_workers=n_workers)
    async with sampler:
        await sampler.obtain_samples()
        return (await sampler.obtain_samples()).stats.timeline


def spans(array):
    return [tuple(span) for span in array.reshape(-1, 2).tolist()]


def common(some, others):
    """Nanoseconds that intervals have in common."""
    return sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in some for b in others)


def stepping(timeline, g):
    """The intervals in which any worker of a group steps."""
    ranks = timeline.groups[g]
    steps = timeline.steps[ranks.start : ranks.stop]
    return [(int(begin), int(end)) for begin, end in zip(steps[..., 0].min(0), steps[..., 1].max(0), strict=True)]


@pytest.mark.parametrize(
    ("kind", "n_workers"),
    [(AsyncGpuSampler, 4), (AsyncAlternatingSampler, 8), (AsyncNoOverlapAlternatingSampler, 8)],
    ids=["gpu", "alternating", "no-overlap"],
)
async def test_a_group_steps_between_its_release_and_its_next_arrival(kind, n_workers):
    line = await timeline(kind, n_workers)
    assert [len(ranks) for ranks in line.groups] == [4] * kind.action_server.n_groups
    assert (line.steps[..., 0] < line.steps[..., 1]).all()
    for g, ranks in enumerate(line.groups):
        steps, stages = line.steps[ranks.start : ranks.stop], line.stages[g]
        assert (np.diff(stages, axis=1) >= 0).all()
        assert (steps[..., 0] > stages[:, 3]).all()  # a worker may be off before all are released
        assert (steps[:, :-1, 1] < stages[1:, 0]).all()
    times = line.stage_seconds()
    assert len(times.pop("step")) == 10 * n_workers
    assert set(times) == {"wait", "copy in", "infer", "copy out", "release", "loop"}
    assert all(len(values) == 9 * len(line.groups) for values in times.values())
    assert (times["infer"] >= 0.004).all()
    assert (times["loop"] > 0).all()


async def test_the_plain_server_waits_while_its_workers_step():
    line = await timeline(AsyncGpuSampler, 4)
    assert common(stepping(line, 0), spans(line.stages[0, :, 1:3])) == 0


@pytest.mark.alone
async def test_alternating_groups_step_while_the_agent_infers_for_the_other():
    line = await timeline(AsyncAlternatingSampler, 8)
    for g in (0, 1):
        inferring = spans(line.stages[g, :, 1:3])
        assert common(inferring, stepping(line, 1 - g)) > 0.3 * common(inferring, inferring)


@pytest.mark.alone
async def test_without_overlap_there_is_no_instant_at_which_both_groups_step():
    line = await timeline(AsyncNoOverlapAlternatingSampler, 8)
    assert common(stepping(line, 0), stepping(line, 1)) == 0
    for g in (0, 1):
        inferring = spans(line.stages[g, :, 1:3])
        assert common(inferring, stepping(line, 1 - g)) > 0.3 * common(inferring, inferring)
        assert common(inferring, stepping(line, g)) == 0


@pytest.mark.each_kind
async def test_a_trace_shows_the_last_batches_of_every_sampler(kind, tmp_path):
    async with small(kind, functools.partial(CountingEnv, 1, 1), mid_batch_reset=False) as sampler:
        with pytest.raises(SamplerError, match="there was none yet"):
            sampler.trace(tmp_path / "trace.json")
        for _ in range(20):
            await sampler.obtain_samples()
        path = tmp_path / "trace.json"
        sampler.trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert "worker 0" in names
    steps = [event for event in events if event["name"] == "step"]
    # All environments wait after the first step of each batch
    assert {event["args"]["t"] for event in steps} == {0}
    assert len(steps) == 16 * len({event["tid"] for event in steps})
    assert all(event["dur"] > 0 for event in steps)
    assert ("pipeline 0" in names) == any(event["name"] == "infer" for event in events)


async def test_the_times_of_workers_with_an_agent_of_their_own():
    async with small(AsyncCpuSampler, gym_env, n_workers=2, agent=RandomAgent()) as sampler:
        line = (await sampler.obtain_samples()).stats.timeline
        assert line.steps.shape == (2, 5, 2)
        assert (np.diff(line.steps.reshape(2, -1)) > 0).all()
        assert line.stages.shape[0] == 0
        times = line.stage_seconds()
        assert {name: len(values) for name, values in times.items()} == {"step": 2 * 5, "act": 2 * 4}
        whole = (line.steps[:, -1, 1] - line.steps[:, 0, 0]).sum() / 1e9
        assert times["step"].sum() + times["act"].sum() == pytest.approx(whole)


def gym_env():
    return gym.make("CartPole-v1", disable_env_checker=True)
