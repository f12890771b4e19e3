"""What goes wrong reaches the caller as one error that names the process and the environment."""

import asyncio
import functools
import re
import signal
import threading

import psutil
import pytest
import torch

from aiosampler import AgentError, RandomAgent, SamplerClosed, WorkerDied, WorkerError, WorkerTimeout, environment_seed
from tests.support.processes import our_children, until
from tests.support.samplers import small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


class _OneFaulty(FaultyEnv):
    """At fault in environment 1 only, which it knows by its seed."""

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed != environment_seed(5, 1):
            self._at = (-1, -1)
        return super().reset(seed=seed, options=options)


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("raise", WorkerError, ["environment 1 ", "ValueError: the sky fell"]),
        ("reset", WorkerError, ["environment 1 ", "ValueError: no way back"]),
        ("shape", WorkerError, ["environment 1 ", "expected int64[3], got int64[4]"]),
        ("dtype", WorkerError, ["environment 1 ", "expected int64[3], got float64[3]"]),
        ("reward", WorkerError, ["environment 1 ", "must be a number, got 'much'"]),
        ("exit", WorkerDied, ["exit code 3", "environment 1 "]),
        ("segv", WorkerDied, ["SIGSEGV", "environment 1 "]),
        ("hang", WorkerTimeout, ["environment 1 ", "0.4 s"]),
        ("hang in C", WorkerTimeout, ["environment 1 ", "0.4 s"]),
    ],
)
async def test_a_failure_reaches_the_caller_with_the_environment_at_fault(kind, fault, error, words):
    limit = 0.4 if error is WorkerTimeout else None

    sampler = small(kind, functools.partial(_OneFaulty, fault), step_timeout=limit)
    with pytest.raises(error) as caught:
        async with asyncio.timeout(20):
            async with sampler:
                while True:
                    await sampler.obtain_samples()
    for word in words:
        assert word in str(caught.value)
    if error is WorkerError:
        assert caught.value.env_index == 1
        assert "Traceback" in "".join(caught.value.__notes__)
    if error is WorkerDied:
        assert caught.value.exitcode in (3, -signal.SIGSEGV)
    if fault == "segv":
        assert "Crash report" in caught.value.__notes__[0]
        assert "Segmentation fault" in caught.value.__notes__[0]
    if error is WorkerTimeout or fault == "segv":  # its threads are told, with the line of the environment
        assert re.search(r"worlds\.py\", line \d+ in step", caught.value.__notes__[0])
    with pytest.raises(SamplerClosed):
        await sampler.obtain_samples()
    assert our_children() == []


@pytest.mark.each_kind
async def test_environments_are_closed_and_a_failing_close_is_reported(kind, tmp_path):
    fuse = str(tmp_path / "fuse")
    with pytest.raises(WorkerError, match="RuntimeError: the door is stuck"):
        async with small(kind, lambda: FaultyEnv("close", fuse=fuse, at_step=99), env_kwargs=None) as sampler:
            await sampler.obtain_samples()
    assert (tmp_path / "fuse").read_text().count("closed") >= 3


class _Wrong(RandomAgent):
    def __init__(self, what):
        self.what = what

    def step(self, inputs, state):
        step = super().step(inputs, state)
        n = len(inputs.prev_reward)
        match self.what:
            case "shape":
                return step._replace(action=step.action[:, None])
            case "dtype":
                return step._replace(action=step.action.float())
            case "batch":
                return step._replace(agent_info={"value": torch.zeros(n + 1)})
            case "raise":
                raise IndexError("out of luck")
            case "none":
                return None
            case "state":
                return step._replace(state=torch.zeros(n))
        return step

    def sample_mode(self, itr):
        if self.what == "later" and itr == 2:
            self.what = "shape"


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", r"action as int64\[4, 1\], expected int64\[4\]"),
        ("dtype", r"action as float32\[4\], expected int64\[4\]"),
        ("batch", r"agent_info\['value'\].*\[5\]"),
        ("raise", "IndexError in step.*out of luck"),
        ("none", "must return an AgentStep"),
        ("state", "state with the structure"),
        ("later", r"action with the shape \[(\d), 1\], expected \[\1\]"),
    ],
)
async def test_an_agent_that_answers_wrongly_is_an_agent_error(kind, what, words):
    with pytest.raises(AgentError, match=words):
        async with small(kind, agent=_Wrong(what)) as sampler:
            while True:
                await sampler.obtain_samples()


@pytest.mark.each_value
@pytest.mark.same_code
@pytest.mark.parametrize("moment", ["probing", "starting", "collecting", "idle"])
async def test_the_sampler_process_that_is_killed_is_reported(kind, moment):
    sampler = small(kind, start_method="spawn" if moment == "probing" else "fork", overlap=moment != "idle")
    start = asyncio.create_task(sampler.async_initialize())
    await until(lambda: sampler.statistics().sampler_pid is not None)
    if moment != "probing":
        await start
        start = asyncio.create_task(sampler.initialize())
        if moment != "starting":
            await start
            start = asyncio.create_task(sampler.obtain_samples())
            if moment == "idle":
                await start
    psutil.Process(sampler.statistics().sampler_pid).kill()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await start
        while True:
            await sampler.obtain_samples()
    await sampler.aclose()


@pytest.mark.same_code
async def test_a_failure_that_nobody_received_is_told_by_the_next_call(kind):
    async with small(kind, functools.partial(_OneFaulty, "raise")) as sampler:
        with pytest.raises(WorkerError):
            while True:
                await sampler.obtain_samples()
        with pytest.raises(SamplerClosed, match="closed by: environment 1 failed") as caught:
            async for _ in sampler:
                pass
        assert isinstance(caught.value.__cause__, WorkerError)


@pytest.mark.each_kind
async def test_evaluating_first_with_a_step_timeout_accuses_nobody(kind):
    slow = {"eval_n_envs": 1, "eval_max_steps": 9, "step_timeout": 0.4}
    async with small(kind, functools.partial(_Slow, 7, 7), **slow) as sampler:
        assert await sampler.evaluate_agent()


class _Slow(CountingEnv):
    def step(self, action):
        threading.Event().wait(0.15)
        return super().step(action)
