"""Samplers as users hold them: real processes, real event loops."""

import asyncio
import contextlib
import functools
import gc
import multiprocessing
import os
import random
import re
import signal
import threading

import numpy as np
import psutil
import pytest
import torch

from aiosampler import (
    AgentError,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    AsyncSerialSampler,
    CategoricalPgAgent,
    ConfigError,
    EnvironmentFailed,
    RandomAgent,
    SamplerClosed,
    SamplerError,
    TrajInfo,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
    environment_seed,
)
from aiosampler.specs.trees import tree_items
from tests.conftest import our_children, until
from tests.in_process import InProcess
from tests.worlds import AgeAgent, CountingEnv, DetailedTrajInfo, FaultyEnv, LookingAgent, NoisyAgent

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Each kind of sampler, and whether the user's loop is uvloop's. The loop is the same code in all of them.
KINDS = [
    pytest.param((AsyncSerialSampler, False), id="serial-asyncio"),
    pytest.param((AsyncSerialSampler, True), id="serial-uvloop"),
    pytest.param((functools.partial(AsyncCpuSampler, n_workers=2), False), id="cpu"),
    pytest.param((functools.partial(AsyncGpuSampler, n_workers=2), False), id="gpu"),
    pytest.param((functools.partial(AsyncGpuSampler, n_workers=2, device=["cpu", "cpu"]), False), id="devices"),
    pytest.param((functools.partial(AsyncAlternatingSampler, n_workers=2), False), id="alternating"),
    pytest.param((functools.partial(AsyncNoOverlapAlternatingSampler, n_workers=2), True), id="no-overlap"),
]


@pytest.fixture(params=KINDS)
def kind_and_loop(request):
    return request.param


@pytest.fixture
def kind(kind_and_loop):
    return kind_and_loop[0]


@pytest.fixture
def anyio_backend(kind_and_loop):
    return "asyncio", {"use_uvloop": kind_and_loop[1]}


def small(kind, env_fn=CountingEnv, **arguments):
    defaults = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 4, "seed": 5, "start_method": "fork"}
    return kind(env_fn, **{**defaults, **arguments})


def leaves(samples):
    for part in ("agent", "env"):
        values = getattr(samples, part)
        for name in values.__slots__:
            value = getattr(values, name)
            if name == "final_observation":
                value = (value.t, value.b, value.observation)
            for path, leaf in tree_items(value):
                yield f"{part}.{name}{path}", leaf
    yield "valid", samples.valid


def assert_same(got, expected):
    pairs = list(zip(leaves(got), leaves(expected), strict=True))
    assert len(pairs) > 12
    for (name, a), (_, b) in pairs:
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    assert [vars(info) for info in got.traj_infos] == [vars(info) for info in expected.traj_infos]


@pytest.mark.parametrize("start_method", ["spawn", "forkserver", "fork"])
async def test_every_start_method_gives_the_batches_of_the_serial_loop(kind, start_method, same_generators):
    arguments = {
        "agent": AgeAgent(), "batch_T": 5, "batch_B": 4, "seed": 3, "bootstrap_value": True, "eval_n_envs": 2,
        "eval_max_steps": 40, "traj_info_cls": DetailedTrajInfo,
    }  # fmt: skip
    expected = InProcess(CountingEnv, **arguments)
    async with kind(CountingEnv, **arguments, start_method=start_method) as sampler:
        for itr in range(6):
            samples = await sampler.obtain_samples()
            assert_same(samples, expected.collect())
            assert samples.itr == itr
            assert samples.policy_version == 0
            assert all(type(info) is DetailedTrajInfo for info in samples.traj_infos)
            if itr % 2:
                infos = await sampler.evaluate_agent()
                assert sorted(map(repr, infos)) == sorted(map(repr, expected.evaluate()))
    expected.close()


async def test_a_stochastic_agent_repeats_itself_and_evaluation_does_not_disturb_it(kind):
    async def actions(evaluating):
        arguments = {"agent": NoisyAgent(), "eval_n_envs": 1, "eval_max_steps": 20}
        async with small(kind, **arguments) as sampler:
            collected = []
            for _ in range(4):
                collected.append((await sampler.obtain_samples()).agent.action.clone())
                if evaluating:
                    await sampler.evaluate_agent()
            return torch.stack(collected)

    first = await actions(False)
    assert torch.equal(first, await actions(False))
    assert torch.equal(first, await actions(True))


async def test_the_next_batch_is_collected_while_the_user_has_this_one(kind):
    async with small(kind) as sampler:
        first = await sampler.obtain_samples()
        kept = first.clone()
        progress = sampler._progress
        await until(lambda: progress[0, 0] >= 10 and progress[0, 1] == -1)  # the second batch is complete
        assert_same(first, kept)
        second = await sampler.obtain_samples()
        assert second.env.observation.data_ptr() != first.env.observation.data_ptr()


async def test_without_overlap_nothing_is_collected_ahead_and_new_parameters_are_used_at_once(kind):
    agent = CategoricalPgAgent(_model)
    async with small(kind, agent=agent, overlap=False) as sampler:
        assert (await sampler.obtain_samples()).policy_version == 0
        for version in (1, 2):
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert sampler.publish() == version
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["value"] == version).all()


async def test_with_overlap_new_parameters_reach_the_batch_after_next(kind):
    agent = CategoricalPgAgent(_model)
    async with small(kind, agent=agent) as sampler:
        versions = []
        for version in range(1, 8):
            samples = await sampler.obtain_samples()
            versions.append(samples.policy_version)
            assert (samples.agent.agent_info["value"] == samples.policy_version).all()
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert (agent.send_shared_memory() if version % 2 else sampler.publish(agent.model)) == version
        assert versions == [0, 0, 1, 2, 3, 4, 5]


class _Model(torch.nn.Module):
    def __init__(self, n_actions):
        super().__init__()
        self.policy, self.value = torch.nn.Linear(3, n_actions), torch.nn.Linear(3, 1)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)

    def forward(self, observation):
        observation = observation.float() / 1e9
        return self.policy(observation), self.value(observation).squeeze(-1)


def _model(observation_space, action_space):
    return _Model(int(action_space.n))


async def test_the_two_phases_of_the_start(kind):
    sampler = small(kind)
    with pytest.raises(SamplerError, match="follows async_initialize"):
        await sampler.initialize()
    with pytest.raises(SamplerClosed, match="not started"):
        await sampler.obtain_samples()
    buffers, examples = await sampler.async_initialize()
    assert [samples.env.reward.shape for samples in buffers] == [(5, 4), (5, 4)]
    assert buffers[0].env.reward.data_ptr() != buffers[1].env.reward.data_ptr()
    assert examples["observation"].shape == (3,)
    assert set(examples) >= {"observation", "action", "reward", "agent_info", "env_info"}
    await sampler.initialize()
    samples = await sampler.obtain_samples(itr=7, db_idx=1)
    assert samples.itr == 7
    assert samples.env.reward.data_ptr() == buffers[1].env.reward.data_ptr()
    with pytest.raises(ConfigError, match="itr=7, but the batch with itr=8"):
        await sampler.obtain_samples(itr=7)
    with pytest.raises(ConfigError, match="db_idx=1"):
        await sampler.obtain_samples(db_idx=1)
    assert (await sampler.obtain_samples(8, 0)).env.reward.data_ptr() == buffers[0].env.reward.data_ptr()
    await sampler.aclose()
    await sampler.aclose()
    with pytest.raises(SamplerClosed, match="is closed"):
        await sampler.obtain_samples()
    with pytest.raises(SamplerClosed):
        sampler.publish()


async def test_cancelled_calls_lose_no_batch(kind, same_generators):
    expected = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5)
    async with small(kind, eval_n_envs=1, eval_max_steps=10**9) as sampler:
        for itr in range(6):
            task = asyncio.create_task(sampler.obtain_samples())
            for _ in range(itr):
                await asyncio.sleep(0)
            arrived = not task.cancel()
            if itr == 3:  # runs for ever, unless it is let go
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await sampler.evaluate_agent()
            if not arrived:
                with pytest.raises(asyncio.CancelledError):
                    await task
            samples = await (task if arrived else sampler.obtain_samples())
            assert samples.itr == itr
            assert_same(samples, expected.collect())
    expected.close()


async def test_calls_of_several_tasks_are_served_in_order(kind):
    async with small(kind, eval_n_envs=1, eval_max_steps=20) as sampler:
        calls = [
            sampler.obtain_samples(),
            sampler.evaluate_agent(),
            sampler.obtain_samples(),
            sampler.evaluate_agent(),
        ]
        first, infos, second, _ = await asyncio.gather(*calls)
        assert (first.itr, second.itr) == (0, 1)
        assert all(isinstance(info, TrajInfo) for info in infos)


async def test_iterating(kind):
    async with small(kind) as sampler:
        itrs = []
        async for samples in sampler:
            itrs.append(samples.itr)
            if samples.itr == 3:
                await sampler.aclose()
        assert itrs == [0, 1, 2, 3]


class _OneFaulty(FaultyEnv):
    """At fault in environment 1 only, which it knows by its seed."""

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed != environment_seed(5, 1):
            self._at = (-1, -1)
        return super().reset(seed=seed, options=options)


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
        assert "Last words" in caught.value.__notes__[0]
        assert "Segmentation fault" in caught.value.__notes__[0]
    if error is WorkerTimeout or fault == "segv":  # its threads are told, with the line of the environment
        assert re.search(r"worlds\.py\", line \d+ in step", caught.value.__notes__[0])
    with pytest.raises(SamplerClosed):
        await sampler.obtain_samples()
    assert our_children() == []


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


class _OldEnv(CountingEnv):
    """Has the step of the time before Gymnasium."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


@pytest.mark.parametrize(
    ("env_fn", "error", "words"),
    [
        (lambda: 1 / 0, EnvironmentFailed, "ZeroDivisionError"),
        (lambda: 17, EnvironmentFailed, "must return a Gymnasium environment, got 17"),
        (
            lambda: FaultyEnv("shape", 1, 0),
            EnvironmentFailed,
            r"observation does not fit: expected int64\[3\], got int64\[4\]",
        ),
        (lambda: FaultyEnv("reset", 0, 0), EnvironmentFailed, "no way back"),
        (_OldEnv, EnvironmentFailed, r"step\(\) must return \(observation, .*; it returned \(array"),
    ],
    ids=["raises", "returns", "misfit", "reset", "old"],
)
async def test_an_env_fn_that_does_not_work_is_found_at_the_start(kind, env_fn, error, words):
    with pytest.raises(error, match=words) as caught:
        await small(kind, env_fn).async_initialize()
    assert isinstance(caught.value, ConfigError)
    assert "Traceback" in "".join(caught.value.__notes__)


async def test_env_info_that_is_never_reported(kind):
    with pytest.raises(ConfigError, match=r"did not report \['nonsense'\].*'doubled'"):
        async with small(kind, env_info_keys=("doubled", "nonsense")):
            pass


async def test_a_start_that_takes_too_long_names_its_phase(kind):
    with pytest.raises(WorkerTimeout, match="still building the example environment"):
        async with small(kind, lambda: threading.Event().wait(), start_timeout=1.0):
            pass


async def test_the_arena_that_cannot_be_had_is_refused_with_its_size(kind):
    with pytest.raises(SamplerError, match=r"need [\d,]+ bytes of shared memory.*batch_T"):
        async with small(kind, batch_T=10**9, batch_B=4):
            pass


async def test_the_exception_in_the_body_is_the_one_that_is_seen(kind):
    with pytest.raises(KeyError, match="mine"):
        async with small(kind, lambda: FaultyEnv("close", at_step=99)):
            raise KeyError("mine")


async def test_the_users_process_is_left_as_it_was(kind):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    multiprocessing.set_start_method(None, force=True)  # undecided, as in a fresh process
    before = (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(),
        asyncio.get_event_loop_policy() if not hasattr(asyncio, "_get_event_loop_policy") else None,
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        multiprocessing.get_start_method(allow_none=True), dict(os.environ), os.sched_getaffinity(0),
        list(torch.cuda._lazy_seed_tracker.get_calls()),  # the seeds for when CUDA is initialised
    )  # fmt: skip
    async with small(kind, agent=CategoricalPgAgent(_model), start_method="spawn") as sampler:
        await sampler.obtain_samples()
    after = (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(),
        asyncio.get_event_loop_policy() if not hasattr(asyncio, "_get_event_loop_policy") else None,
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        multiprocessing.get_start_method(allow_none=True), dict(os.environ), os.sched_getaffinity(0),
        list(torch.cuda._lazy_seed_tracker.get_calls()),  # the seeds for when CUDA is initialised
    )  # fmt: skip
    assert before == after


@pytest.mark.parametrize("moment", ["probing", "starting", "collecting", "idle"])
async def test_the_sampler_process_that_is_killed_is_reported(kind, moment):
    sampler = small(kind, start_method="spawn" if moment == "probing" else "fork", overlap=moment != "idle")
    start = asyncio.create_task(sampler.async_initialize())
    await until(lambda: sampler._process is not None)
    if moment != "probing":
        await start
        start = asyncio.create_task(sampler.initialize())
        if moment != "starting":
            await start
            start = asyncio.create_task(sampler.obtain_samples())
            if moment == "idle":
                await start
    psutil.Process(sampler._process.pid).kill()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await start
        while True:
            await sampler.obtain_samples()
    await sampler.aclose()


async def test_closing_is_not_disturbed_by_a_process_whose_end_was_not_noticed_yet(kind):
    sampler = small(kind, start_method="forkserver")
    await sampler.async_initialize()
    await sampler.initialize()
    process = psutil.Process(sampler._process.pid)
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        while process.status() != psutil.STATUS_ZOMBIE:
            pass  # the event loop stands still while the fork server takes the exit code
    await sampler.aclose()


def test_closing_late_closes_nothing_of_others(kind):
    async def start():
        sampler = small(kind, lambda: FaultyEnv("raise", at_step=6, at_episode=0), start_method="fork")
        await sampler.async_initialize()
        await sampler.initialize()
        await sampler.obtain_samples()
        await until(lambda: sampler._process._process.ended)  # the batch ahead has failed
        return sampler

    sampler = asyncio.run(start())
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]  # they get the numbers that were closed
    with pytest.warns(ResourceWarning, match="was not closed"):
        asyncio.run(sampler.aclose())
    for descriptor in others:
        os.close(descriptor)


async def test_cancelling_the_start_leaves_nothing_behind(kind):
    for steps in (1, 2, 3, 5, 8, 13, 21, 34):
        sampler = small(kind)

        async def start(sampler=sampler):
            async with sampler:
                pass

        task = asyncio.create_task(start())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert our_children() == []


async def test_closing_while_a_call_waits(kind, monkeypatch):
    monkeypatch.setattr("aiosampler.runtime.deadlines.SAMPLER_CLOSE_S", 1.0)
    monkeypatch.setattr("aiosampler.runtime.deadlines.WORKER_CLOSE_S", 0.5)  # a forked sampler process has it too
    async with small(kind, lambda: FaultyEnv("hang", at_step=2, at_episode=5), batch_T=10**4) as sampler:
        task = asyncio.create_task(sampler.obtain_samples())
        await until(lambda: sampler._progress[0, 0] > 8)
        await sampler.aclose()
        with pytest.raises(SamplerClosed):
            await task


async def test_environments_are_seeded_by_their_index_alone(kind):
    async with small(kind, batch_B=2) as two, small(kind, batch_B=4) as three:
        a, b = await two.obtain_samples(), await three.obtain_samples()
        assert torch.equal(a.env.observation, b.env.observation[:, :2])
        seeds = a.env.observation[0, :, 0].tolist()
        assert seeds == [environment_seed(5, 0), environment_seed(5, 1)]


async def test_a_seed_that_was_drawn_is_told(kind):
    async with small(kind, seed=None) as sampler:
        samples = await sampler.obtain_samples()
        assert samples.env.observation[0, 0, 0] == environment_seed(sampler.seed, 0)


async def test_closing_ends_an_evaluation_with_an_error_and_not_with_an_empty_answer(kind):
    async with small(kind, eval_n_envs=1, eval_max_steps=10**9) as sampler:
        evaluation = asyncio.create_task(sampler.evaluate_agent())
        await until(lambda: sampler._progress[0, 0] > 50)
        await sampler.aclose()
        with pytest.raises(SamplerClosed):
            await evaluation


async def test_a_failure_that_nobody_received_is_told_by_the_next_call(kind):
    async with small(kind, functools.partial(_OneFaulty, "raise")) as sampler:
        with pytest.raises(WorkerError):
            while True:
                await sampler.obtain_samples()
        with pytest.raises(SamplerClosed, match="closed by: environment 1 failed") as caught:
            async for _ in sampler:
                pass
        assert isinstance(caught.value.__cause__, WorkerError)


async def test_evaluating_first_with_a_step_timeout_accuses_nobody(kind):
    slow = {"eval_n_envs": 1, "eval_max_steps": 9, "step_timeout": 0.4}
    async with small(kind, functools.partial(_Slow, 7, 7), **slow) as sampler:
        assert await sampler.evaluate_agent()


class _Slow(CountingEnv):
    def step(self, action):
        threading.Event().wait(0.15)
        return super().step(action)


def test_a_sampler_can_be_closed_when_its_loop_is_gone(kind):
    async def start():
        sampler = small(kind)
        await sampler.async_initialize()
        await sampler.initialize()
        await sampler.obtain_samples()
        return sampler

    sampler = asyncio.run(start())

    async def other_loop():
        with pytest.raises(SamplerError, match="belongs to the event loop"):
            await sampler.obtain_samples()
        with pytest.warns(ResourceWarning, match="was not closed"):
            await sampler.aclose()
        await sampler.aclose()

    asyncio.run(other_loop())


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
async def test_a_sampler_that_is_dropped_ends_its_processes(kind, debug):
    sampler = small(kind, debug=debug)
    await sampler.async_initialize()
    await sampler.initialize()
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - dropping takes two statements
        del sampler
        gc.collect()
    await until(lambda: not our_children())
    await until(lambda: not any(task.get_name().startswith("watch-") for task in asyncio.all_tasks()))


async def test_a_child_that_the_user_forks_does_not_end_the_sampler(kind):
    async with small(kind) as sampler:
        await sampler.obtain_samples()
        pid = os.fork()
        if pid == 0:
            try:
                sampler._process._abandoned()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it ends at once
        for _ in range(3):
            await sampler.obtain_samples()


async def test_publishing_is_for_running_samplers(kind):
    sampler = small(kind, agent=CategoricalPgAgent(_model))
    await sampler.async_initialize()
    with torch.no_grad():
        sampler.agent.model.value.bias.fill_(7.0)  # a checkpoint that is loaded before the start counts
    with pytest.raises(SamplerClosed, match="not started"):
        sampler.publish()
    await sampler.initialize()
    samples = await sampler.obtain_samples()
    assert (samples.agent.agent_info["value"] == 7).all()
    assert sampler.policy_version == 0
    await sampler.aclose()


class _Hooked(CategoricalPgAgent):
    adopted = 0

    def recv_shared_memory(self):
        self.adopted = super().recv_shared_memory()
        return self.adopted

    def step(self, inputs, state):
        step = super().step(inputs, state)
        info = {**step.agent_info, "adopted": torch.full_like(step.action, self.adopted)}
        return step._replace(agent_info=info)


async def test_the_agent_is_told_which_parameters_it_has(kind):
    async with small(kind, agent=_Hooked(_model), overlap=False) as sampler:
        for version in range(3):
            samples = await sampler.obtain_samples()
            assert samples.policy_version == version
            assert (samples.agent.agent_info["adopted"] == version).all()
            sampler.publish()


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
async def test_debugging_poisons_what_was_given_back_and_changes_nothing_else(kind, mid_batch_reset, same_generators):
    arguments = {
        "agent": AgeAgent(), "batch_T": 5, "batch_B": 4, "seed": 3, "bootstrap_value": True,
        "mid_batch_reset": mid_batch_reset, "env_info_keys": ("doubled", "parity"),
    }  # fmt: skip
    expected = InProcess(CountingEnv, **arguments)
    async with kind(CountingEnv, **arguments, start_method="fork", debug=True, overlap=False) as sampler:
        kept = None
        for _ in range(5):
            samples = await sampler.obtain_samples()
            assert_same(samples, expected.collect())
            if kept is not None:  # nothing is collected ahead, so nobody has written to its slot yet
                assert kept.env.observation.eq(torch.iinfo(torch.int64).min).all()
                assert kept.env.last_observation.eq(torch.iinfo(torch.int64).min).all()
                assert kept.env.env_info["parity"].eq(-128).all()
                for leaf in (kept.env.reward, kept.agent.agent_info["look"], kept.agent.initial_state["age"]):
                    assert leaf.isnan().all()
                assert kept.valid.all()
            kept = samples
    expected.close()


async def test_final_observations_of_a_batch_that_was_given_back_are_no_silent_mixture(kind):
    async with small(kind) as sampler:
        first = await sampler.obtain_samples()
        second = await sampler.obtain_samples()
        with pytest.raises(SamplerError, match="went back to the sampler when the next one was asked for"):
            len(first.env.final_observation)
        third = second.clone()
        gathered = second.env.final_observation.t.clone()
        await sampler.obtain_samples()
        assert torch.equal(second.env.final_observation.t, gathered)  # it had been read before
        assert torch.equal(third.env.final_observation.t, gathered)


async def test_debugging_logs_what_the_sampler_and_its_processes_do(kind, caplog):
    caplog.set_level("INFO", "aiosampler")
    async with small(kind, eval_n_envs=1, eval_max_steps=9, debug=True) as sampler:
        for _ in range(2):
            await sampler.obtain_samples()
        await sampler.evaluate_agent()
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(f"{type(sampler).__name__} {id(sampler):x}: ") for line in lines)
    said = [line.split(": ", 1)[1] for line in lines]
    expected = [
        "new -> probing", "trying out the example environment", "probing -> probed", "probed -> starting",
        "resetting environment 0", "starting -> running", "collecting batch 0 into slot 0 with policy version 0",
        "collecting batch 1 into slot 1", "evaluating after batch 1", "running -> closed",
    ]  # fmt: skip
    remaining = iter(said)
    for what in expected:
        assert any(what in line for line in remaining), (what, said)


async def test_nothing_is_logged_without_debugging(kind, caplog):
    caplog.set_level("DEBUG", "aiosampler")
    async with small(kind) as sampler:
        await sampler.obtain_samples()
    assert caplog.records == []
