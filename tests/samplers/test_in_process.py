"""The serial sampler in the user's own process: the same data, and a process that is left as it was."""

import asyncio
import bdb
import functools
import gc
import os
import random
import re
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

from aiosampler import AsyncSerialSampler, CategoricalPgAgent, ConfigError, SamplerClosed, WorkerError
from tests.support.agents import AgeAgent
from tests.support.models import small_model
from tests.support.processes import our_children
from tests.support.samplers import PARALLEL, assert_same, small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks")

in_process = functools.partial(AsyncSerialSampler, in_process=True)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}


class DrawingEnv(CountingEnv):
    """Its rewards and lengths come from the global generators."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        reward = random.random() + np.random.random() + torch.rand(()).item()
        return observation, reward, terminated or random.random() < 0.1, truncated, info


async def record(overlap, **arguments):
    """Batches, evaluations and policy versions of a sampler to which something is published after each batch."""
    batches, infos, versions = [], [], []
    sampler = small(
        "serial", DrawingEnv, overlap=overlap, bootstrap_value=True, eval_n_envs=3, eval_max_steps=90, **arguments
    )
    async with sampler:
        for itr in range(5):
            batches.append((await sampler.obtain_samples()).clone())
            versions.append(batches[-1].policy_version)
            if sampler.agent.model is not None:
                with torch.no_grad():
                    for parameter in sampler.agent.model.parameters():
                        parameter.add_(0.1 * (itr + 1))
            sampler.publish()
            if itr % 2:
                infos.append([repr(vars(info)) for info in await sampler.evaluate_agent()])
    return batches, infos, versions


@pytest.mark.each_value
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
@pytest.mark.parametrize("agent", [functools.partial(CategoricalPgAgent, small_model), AgeAgent], ids=["noise", "age"])
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
async def test_the_data_are_those_of_the_process(overlap, agent, mid_batch_reset):
    arguments = {"mid_batch_reset": mid_batch_reset, "max_decorrelation_steps": 6, "debug": True}
    got = await record(overlap, agent=agent(), in_process=True, **arguments)
    expected = await record(overlap, agent=agent(), **arguments)
    for ours, theirs in zip(got[0], expected[0], strict=True):
        assert_same(ours, theirs)
    assert got[1:] == expected[1:]
    assert got[2] == ([0, 0, 1, 2, 3] if overlap else [0, 1, 2, 3, 4])


@pytest.mark.each_value
@pytest.mark.parametrize(
    "block",
    [functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16), torch.inference_mode, torch.no_grad],
    ids=["autocast", "inference", "no-grad"],
)
async def test_where_the_caller_is_changes_nothing(block):
    def sampler(**where):
        return small("serial", agent=CategoricalPgAgent(small_model), bootstrap_value=True, **where)

    async with sampler() as other:
        expected = (await other.obtain_samples()).clone()
    with block():
        async with sampler(in_process=True) as ours:
            got = await ours.obtain_samples()
            with torch.inference_mode(False):
                assert_same(got, expected)


class GuestEnv(CountingEnv):
    """Notes where it is called, and disturbs what a process has once."""

    notes: ClassVar = []

    def note(self, what):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        self.notes.append((what, (os.getpid(), threading.get_ident(), torch.get_num_threads())))
        np.random.seed(0), random.seed(0), torch.manual_seed(0)

    def reset(self, *, seed=None, options=None):
        self.note("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.note("step")
        asyncio.run(asyncio.sleep(0))
        return super().step(action)

    def close(self):
        self.note("close")


async def test_environments_are_called_here_outside_the_loop_and_leave_the_process_as_it_was(same_generators):
    def threads():
        return [thread for thread in threading.enumerate() if not executor.match(thread.name)]

    executor = re.compile("(asyncio|uvloop)_[0-9]")  # the loop's own threads, in which parameters are published

    def state():
        return (
            random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            torch.get_num_threads(), threads(), os.sched_getaffinity(0), dict(os.environ),
            asyncio.get_running_loop(), asyncio.current_task(),
        )  # fmt: skip

    GuestEnv.notes.clear()
    torch.set_num_threads(2)
    try:
        before = state()
        async with small(in_process, GuestEnv, eval_n_envs=1, eval_max_steps=9) as sampler:
            await sampler.obtain_samples()
            assert our_children() == []
            assert state() == before
            await sampler.evaluate_agent()
        assert state() == before
    finally:
        torch.set_num_threads(1)
    assert {what for what, _ in GuestEnv.notes} == {"reset", "step", "close"}
    assert {where for _, where in GuestEnv.notes} == {(os.getpid(), threading.get_ident(), 1)}


class _Raising(FaultyEnv):
    """Raises what it is told to."""

    closed = 0

    def __init__(self, kind):
        super().__init__("raise", at_step=4, at_episode=0)
        self._kind = kind

    def step(self, action):
        try:
            return super().step(action)
        except ValueError as exc:
            raise self._kind("told to") from exc

    def close(self):
        _Raising.closed += 1


async def test_an_error_is_that_of_the_process_with_the_original_as_its_cause():
    caught = []
    for place in (True, False):
        sampler = small("serial", functools.partial(_Raising, LookupError), in_process=place)
        with pytest.raises(WorkerError) as error:
            async with sampler:
                await sampler.obtain_samples()
        with pytest.raises(SamplerClosed, match="environment 0 failed"):
            await sampler.obtain_samples()
        caught.append(error.value)
    ours, theirs = caught
    assert str(ours) == str(theirs).replace("the sampler process", "your process")
    assert (type(ours), ours.env_index) == (type(theirs), theirs.env_index)
    assert (ours.process, theirs.process) == ("user", "sampler")
    assert type(ours.__cause__) is LookupError
    assert "told to" in "".join(ours.__notes__)


@pytest.mark.parametrize("kind", [bdb.BdbQuit, SystemExit])
async def test_what_is_no_failure_goes_through_and_the_environments_are_closed(kind):
    _Raising.closed = 0
    sampler = small(in_process, functools.partial(_Raising, kind))
    with pytest.raises(kind):
        async with sampler:
            try:
                await sampler.obtain_samples()
            finally:
                with pytest.raises(WorkerError, match=f"interrupted by {kind.__name__}"):
                    await sampler.obtain_samples()
    assert _Raising.closed == 1 + 4  # the example's too


def test_an_interrupt_ends_the_program_and_closes_the_environments():
    _Raising.closed = 0

    async def main():
        async with small(in_process, functools.partial(_Raising, KeyboardInterrupt)) as sampler:
            await sampler.obtain_samples()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert _Raising.closed == 1 + 4


async def test_cancelled_calls_lose_no_batch():
    async with small(in_process) as sampler, small("serial") as other:
        for itr in range(4):
            task = asyncio.create_task(sampler.obtain_samples())
            for _ in range(itr):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
                samples = await sampler.obtain_samples()
            else:
                samples = await task
            assert samples.itr == itr
            assert_same(samples, await other.obtain_samples())


class _Breaking(CountingEnv):
    def step(self, action):
        breakpoint()
        return super().step(action)


async def test_a_breakpoint_stops_in_the_step(monkeypatch):
    frames = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: frames.append(sys._getframe(1)))
    async with small(in_process, _Breaking) as sampler:
        frames.clear()
        await sampler.obtain_samples()
    assert len(frames) == 4 * 5
    assert {frame.f_code for frame in frames} == {_Breaking.step.__code__}


@pytest.mark.parametrize("kind", PARALLEL)
def test_samplers_with_workers_refuse_it(kind):
    with pytest.raises(ConfigError, match=r"in_process=True would be ignored by .*use AsyncSerialSampler"):
        small(kind, in_process=True)


async def test_the_start_reports_an_environment_that_cannot_be_made():
    def make():
        raise OSError("no licence")

    sampler = small(in_process, make)
    with pytest.raises(ConfigError, match="failed in your process while calling env_fn: OSError: no licence"):
        await sampler.async_initialize()


async def test_closing_at_each_stage_and_a_failing_close(tmp_path):
    for stage in range(3):
        sampler = small(in_process)
        if stage:
            await sampler.async_initialize()
        if stage == 2:
            await sampler.initialize()
        await sampler.aclose()
        await sampler.aclose()
    fuse = str(tmp_path / "fuse")
    with pytest.raises(WorkerError, match="the door is stuck"):
        async with small(in_process, lambda: FaultyEnv("close", fuse=fuse, at_step=99)) as sampler:
            await sampler.obtain_samples()


async def test_closing_while_a_call_waits():
    async with small(in_process) as sampler:
        task = asyncio.create_task(sampler.obtain_samples())
        closing = asyncio.create_task(sampler.aclose())
        await closing
        with pytest.raises(SamplerClosed):
            await task


async def test_a_sampler_that_is_dropped_closes_its_environments():
    _Raising.closed = 0
    sampler = small(in_process, functools.partial(_Raising, ValueError))
    await sampler.async_initialize()
    await sampler.initialize()
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - dropping takes two statements
        del sampler
        gc.collect()
    assert _Raising.closed == 1 + 4


async def test_what_it_does_is_seen(caplog, tmp_path):
    caplog.set_level("INFO", "aiosampler")
    async with small(in_process, eval_n_envs=1, eval_max_steps=9, debug=True) as sampler:
        await sampler.obtain_samples()
        await sampler.evaluate_agent()
        sampler.trace(tmp_path / "trace.json")
        assert sampler.statistics().batches == 1
    said = [record.getMessage() for record in caplog.records]
    remaining = iter(said)
    for what in (
        "trying out the example environment", "resetting environment 0",
        "collecting batch 0 into slot 0 with policy version 0", "evaluating after batch 0", "running -> closed",
    ):  # fmt: skip
        assert any(what in line for line in remaining), (what, said)
