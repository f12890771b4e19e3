"""Acting for whoever is ready: nobody waits for the slowest, and what is recorded is as exact as in lockstep."""

import asyncio
import collections
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import (
    Agent,
    AgentError,
    AgentInputs,
    AgentStep,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncSerialSampler,
    BatchSpec,
    ConfigError,
    DqnAgent,
)
from aiosampler.collectors.served_actions import DynamicActions
from aiosampler.memory.arena_map import N_SLOTS
from aiosampler.memory.slot import columns, slot_specs
from aiosampler.servers.dynamic_server import EVALUATION, AsyncDynamicActionServer, BatchingRule, Branch
from aiosampler.servers.gathered import GatheredStepper
from aiosampler.signals.arrivals import ServerArrivals, WorkerArrivals
from aiosampler.signals.counter import Signal
from aiosampler.signals.rendezvous import rendezvous_specs
from aiosampler.specs.arrays import ArraySpec, Spaces
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import tree_map
from tests.support.agents import AgeAgent
from tests.support.coroutines import Awaited
from tests.support.models import OBSERVATION, Head
from tests.support.samplers import small
from tests.support.server_calls import serving_log
from tests.support.worlds import CountingEnv


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


class CompanyAgent(Agent):
    """Tells of each step with how many environments it was chosen, and which these were."""

    def step(self, inputs, state):
        n = len(inputs.observation)
        company = torch.full((n,), n)
        action = torch.zeros(n, dtype=torch.int64)
        return AgentStep(action, {"n": company, "which": inputs.environments.clone()}, None)


class PatientEnv(CountingEnv):
    """Environment 0 does not take its second step before environment 3 has taken its ninth."""

    def __init__(self, folder, context):
        super().__init__()
        self._index, self._done = None if context is None else context.index, Path(folder) / "done"
        self._steps = 0

    def step(self, action):
        self._steps += 1
        if self._index == 0 and self._steps == 2:
            deadline = time.monotonic() + 30
            while not self._done.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert self._done.exists(), "environment 3 waits for this one"
        if self._index == 3 and self._steps == 9:
            self._done.touch()
        return super().step(action)


async def test_fast_environments_go_on_into_the_next_batch_while_a_slow_one_is_in_the_last(tmp_path, no_leaks):
    def make(*, context):
        return PatientEnv(tmp_path, context)

    async with small(AsyncGpuSampler, make, agent=CompanyAgent(), n_workers=4, batch_T=5, lockstep=False) as sampler:
        first = (await sampler.obtain_samples()).clone()
        second = await sampler.obtain_samples()
        assert first.valid.all()
        assert second.valid.all()
        for samples in (first, second):
            assert (samples.agent.agent_info["which"] == torch.arange(4)).all()
            assert (samples.agent.policy_version == 0).all()
            assert samples.policy_versions == (0, 0)
        first.agent.policy_version[2, 1] = 3
        assert first.policy_versions == (0, 3)
        assert (first.agent.agent_info["n"] < 4).any()


STEPS = collections.Counter()  # of each `PatientWorld` of this process


class PatientWorld(Awaited):
    """Environment 0 does not take its second step before all others of its process have taken their ninth."""

    def __init__(self, context):
        super().__init__(CountingEnv())
        self._index = None if context is None else context.index

    async def step(self, action):
        STEPS[self._index] += 1
        while self._index == 0 and STEPS[0] == 2 and min(STEPS[b] for b in (1, 2, 3)) < 9:  # noqa: ASYNC110 - as users do
            await asyncio.sleep(0.001)
        return await super().step(action)


def make_patient(*, context):
    return PatientWorld(context)


async def test_a_slow_coroutine_holds_up_its_own_column_alone(no_leaks):
    arguments = {"agent": CompanyAgent(), "n_workers": 1, "batch_T": 5, "step_timeout": 20, "lockstep": False}
    async with small(AsyncGpuSampler, make_patient, **arguments) as sampler:
        for _ in range(4):
            samples = await sampler.obtain_samples()
            assert samples.valid.all()
            assert (samples.agent.agent_info["which"] == torch.arange(4)).all()


class SlowEvaluation(Awaited):
    """The second environment of evaluation takes its time."""

    def __init__(self, context):
        super().__init__(CountingEnv())
        self._slow = context is not None and context.evaluation and context.index == 1

    async def step(self, action):
        await asyncio.sleep(0.1 if self._slow else 0.001)
        return await super().step(action)


def make_slow_evaluation(*, context):
    return SlowEvaluation(context)


async def test_after_a_cancelled_evaluation_a_batch_begins_when_the_slowest_coroutine_has_returned(no_leaks):
    arguments = {"n_workers": 1, "lockstep": False, "overlap": False, "batch_T": 150, "eval_max_steps": 4000}
    sampler = small(AsyncGpuSampler, make_slow_evaluation, batch_B=2, eval_n_envs=2, **arguments)
    async with sampler, asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await sampler.evaluate_agent()
        assert (await sampler.obtain_samples()).valid.all()


async def test_the_straggler_of_a_batch_is_told(no_leaks):
    class Late(CountingEnv):
        def __init__(self, context):
            super().__init__()
            self._late = context is not None and context.index == 2

        def step(self, action):
            time.sleep(0.02 * self._late)
            return super().step(action)

    def make(*, context):
        return Late(context)

    async with small(AsyncGpuSampler, make, n_workers=4, batch_T=5, lockstep=False) as sampler:
        assert sampler.statistics().slowest_worker is None
        await sampler.obtain_samples()
        statistics = sampler.statistics()
        assert statistics.slowest_worker == 2
        assert statistics.slowest_behind_s > 0
        assert statistics.slowest_env == 2
        assert statistics.slowest_env_behind_s > 0


async def test_calls_of_the_agent_and_waits_are_told(tmp_path, no_leaks):
    async with small(AsyncGpuSampler, agent=CompanyAgent(), n_workers=4, lockstep=False, overlap=False) as sampler:
        assert sampler.statistics().inference_calls is None
        samples = await sampler.obtain_samples()
        company = samples.agent.agent_info["n"]
        told = sampler.statistics()
        sampler.trace(tmp_path / "trace.json")
    assert told.inference_calls == round(float((1 / company).sum()))  # each of n environments tells of n
    assert told.inference_batch == pytest.approx(company.numel() / told.inference_calls)
    assert (told.inference_batch_min, told.inference_batch_max) == (company.min(), company.max())
    assert sum(calls for _, calls in told.inference_batch_sizes) == told.inference_calls
    assert 0 <= told.inference_wait_s <= told.inference_wait_max_s < 60
    assert json.loads(json.dumps(told.as_dict()))["inference_batch_sizes"] == [*map(list, told.inference_batch_sizes)]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    sizes = [event["args"]["environments"] for event in events if event["name"] == "infer"]
    assert len(sizes) == told.inference_calls
    assert sum(sizes) == company.numel()


async def test_an_environment_that_is_stuck_is_told_of_while_others_wait_for_it(tmp_path, no_leaks):
    class Stuck(CountingEnv):
        def __init__(self, context):
            super().__init__()
            self._stuck = context is not None and context.index == 1

        def step(self, action):
            while self._stuck and not (tmp_path / "go on").exists():
                time.sleep(0.001)
            return super().step(action)

    def make(*, context):
        return Stuck(context)

    async with small(AsyncGpuSampler, make, n_workers=4, lockstep=False) as sampler:
        batch = asyncio.ensure_future(sampler.obtain_samples())
        async with asyncio.timeout(30):
            while sampler.statistics().unfinished_envs != (1,):  # noqa: ASYNC110 - it is a look
                await asyncio.sleep(0.01)
        (tmp_path / "go on").touch()
        assert (await batch).valid.all()


@pytest.mark.parametrize("min_batch", [1, 4])
async def test_the_agent_waits_for_a_least_number_of_environments(min_batch, no_leaks):
    arguments = {"min_batch": min_batch, "max_wait": 60.0} if min_batch > 1 else {}
    sampler = small(AsyncGpuSampler, agent=CompanyAgent(), n_workers=4, lockstep=False, overlap=False, **arguments)
    async with sampler:
        for _ in range(3):
            company = (await sampler.obtain_samples()).agent.agent_info["n"]
            assert (company >= min_batch).all()


async def test_it_waits_for_nobody_who_does_not_come(no_leaks):
    """Workers that are two batches ahead of the user come no more, and a minute is too long for a test."""
    arguments = {"min_batch": 4, "max_wait": 60.0, "batch_T": 3}
    async with small(AsyncGpuSampler, agent=CompanyAgent(), n_workers=4, lockstep=False, **arguments) as sampler:
        async with asyncio.timeout(30):
            for _ in range(10):
                assert (await sampler.obtain_samples()).valid.all()


async def test_columns_are_the_same_life_that_they_are_in_lockstep_whoever_is_late(no_leaks):
    class Uneven(CountingEnv):
        def step(self, action):
            if os.getpid() % 3 == 0:
                time.sleep(0.0005)
            return super().step(action)

    arguments = {"agent": AgeAgent(), "batch_B": 6, "bootstrap_value": True}
    async with small(AsyncSerialSampler, **arguments) as serial:
        expected = [(await serial.obtain_samples()).clone() for _ in range(6)]
    async with small(AsyncGpuSampler, Uneven, n_workers=6, lockstep=False, **arguments) as sampler:
        for batch in expected:
            samples = await sampler.obtain_samples()
            for part, names in ((samples.env, ("observation", "reward", "first")), (samples.agent, ("action",))):
                for name in names:
                    right = getattr(batch.env if part is samples.env else batch.agent, name)
                    assert torch.equal(getattr(part, name), right), name
            assert torch.equal(samples.agent.bootstrap_value, batch.agent.bootstrap_value)
            assert torch.equal(samples.agent.final_value.value, batch.agent.final_value.value)
            assert torch.equal(samples.agent.initial_state["age"], batch.agent.initial_state["age"])


def test_epsilons_are_those_of_the_environments_that_are_acted_for():
    agent = DqnAgent(lambda o, a: Head([1.0, 0.0]), eps_final=1.0, eps_final_min=1e-6, eps_itr_max=0)
    agent.initialize(Spaces(OBSERVATION, spaces.Discrete(2)))
    agent.collector_initialize(4, range(4))  # epsilons of 1e-6, 1e-4, 1e-2 and 1
    agent.sample_mode(5)
    drawn = []
    for environments in ([3], [0]):
        inputs = AgentInputs(torch.zeros(1, 4), None, torch.zeros(1), environments=torch.tensor(environments))
        drawn.append({int(agent.step(inputs, None).action) for _ in range(200)})
    assert drawn == [{0, 1}, {0}]


async def test_an_agent_that_needs_all_environments_is_refused_at_the_start(no_leaks):
    class Stubborn(CompanyAgent):
        def collector_initialize(self, global_B, env_ranks):
            self.offsets = torch.arange(len(env_ranks))

        def step(self, inputs, state):
            step = super().step(inputs, state)
            return step._replace(action=(step.action + self.offsets) % 5)

    with pytest.raises(AgentError, match=r"one of 4 environments: .* inputs\.environments says which these are"):
        async with small(AsyncGpuSampler, agent=Stubborn(), n_workers=2, lockstep=False):
            pass


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        (AsyncSerialSampler, {"lockstep": False}, "lockstep=False would be ignored by AsyncSerialSampler"),
        (AsyncCpuSampler, {"lockstep": False}, "lockstep=False would be ignored by AsyncCpuSampler"),
        (AsyncAlternatingSampler, {"lockstep": False, "n_workers": 2}, "whose groups take turns; use AsyncGpuSampler"),
        (AsyncGpuSampler, {"min_batch": 2}, "min_batch=2 would be ignored: it needs lockstep=False"),
        (AsyncGpuSampler, {"max_wait": 0.1}, "max_wait=0.1 would be ignored: it needs lockstep=False"),
        (AsyncGpuSampler, {"lockstep": False, "max_wait": 0.1}, "it needs a min_batch above 1"),
        (AsyncGpuSampler, {"lockstep": False, "min_batch": 5}, "more than the batch_B=4 environments"),
        (AsyncGpuSampler, {"lockstep": False, "min_batch": 2, "max_wait": 0}, "max_wait must be a number of seconds"),
    ],
)
def test_what_would_be_ignored_is_refused(kind, arguments, told):
    with pytest.raises(ConfigError, match=told):
        small(kind, **arguments)
    with pytest.raises(TypeError, match="lockstep must be True or False"):
        small(AsyncGpuSampler, lockstep="no")


INTEGER = ArraySpec((), np.dtype(np.int64))
STEP = StepSpecs(
    observation=INTEGER, action=INTEGER, agent_info={"n": INTEGER, "which": INTEGER}, env_info={}, state=None,
    value=None, policy_version=INTEGER,
)  # fmt: skip


class CountedSignal:
    """A signal that counts how often it was posted."""

    def __init__(self):
        self._signal = Signal()
        self.fileno, self.take, self.wait, self.close = (
            getattr(self._signal, name) for name in ("fileno", "take", "wait", "close")
        )
        self.reader = self._signal.reader
        self.posts = 0

    def post(self):
        self.posts += 1
        self._signal.post()


class CountedAgent(CompanyAgent):
    calls = 0
    itrs = ()

    def sample_mode(self, itr):
        self.itrs += (itr,)

    def step(self, inputs, state):
        self.calls += 1
        return super().step(inputs, state)


class ServedThreads:
    """A server without lockstep for W members, which are threads of this process."""

    def __init__(self, W, T, **rule):
        specs = {
            **slot_specs(BatchSpec(T=T, B=W), STEP, sparse=False),
            **slot_specs(BatchSpec(T=T, B=W), STEP, sparse=True),
        }
        *self.slots, evaluation_slot = (
            tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), specs) for _ in range(N_SLOTS + 1)
        )
        layout = rendezvous_specs(W)
        self._cells = np.zeros(layout.shape, layout.dtype)
        self.obs_ready, self.act_ready = CountedSignal(), [CountedSignal() for _ in range(W)]
        self.agent = CountedAgent()
        shares = [range(b, b + 1) for b in range(W)]
        self._parts = (0, self.slots), (EVALUATION, [evaluation_slot])
        branches = [Branch(GatheredStepper(self.agent, slots, shares), shares) for _, slots in self._parts]
        self.arrivals = ServerArrivals(self._cells, self.obs_ready, self.act_ready)
        self.server = AsyncDynamicActionServer(
            self.arrivals,
            self.agent,
            *branches,
            version=lambda: 7,
            rule=BatchingRule(**rule),
            cells=np.zeros(8, np.int64),
            log=serving_log(W),
        )

    async def __aenter__(self):
        self._serving = asyncio.create_task(self.server.serve())
        return self

    async def __aexit__(self, *exc_info):
        self._serving.cancel()
        self.arrivals.abort()  # else threads of a test that fails would wait for ever
        self.arrivals.close()

    async def work(self, members, function):
        """Call a function with the sources of each of these members, for batches and evaluation, in its thread."""
        await asyncio.gather(*(asyncio.to_thread(function, *self._sources(member)) for member in members))

    def _sources(self, member):
        side = WorkerArrivals(self._cells, member, self.obs_ready, self.act_ready[member], spin=False)
        for first_slot, slots in self._parts:
            ours, progress = [columns(slot, member, 1) for slot in slots], np.zeros(8, np.int64)
            yield DynamicActions(spaces.Discrete(2), ours, progress, side, batches=False, first_slot=first_slot)


@pytest.mark.parametrize("W", [1, 4])
async def test_the_server_wakes_once_for_a_call_of_the_agent_and_posts_to_nobody_who_is_awake(W):
    T = 50
    served = ServedThreads(W, T)
    server, arrivals = served.server, served.arrivals

    def work(source, _):
        for slot in (0, 1):
            source.begin(slot)
            for t in range(T):
                source.act(t)
            source.finish(T, idle=False)

    for slot in (0, 1):
        server.expect(slot, slot)
    async with served:
        await served.work(range(W), work)
        steps = 2 * W * (T + 1)  # those at the end of each batch among them
        assert server.acted == 2 * W * T
        assert server.calls == served.agent.calls <= 2 * W * T
        assert arrivals.wake_ups <= steps + 1
        assert served.obs_ready.posts <= W * (arrivals.wake_ups + 1)  # of all that arrive while it sleeps
        assert sum(signal.posts for signal in served.act_ready) <= steps
    for slot in served.slots:
        assert (slot["policy_version"] == 7).all()
        assert (slot["agent_info"]["which"] == np.arange(W)).all()


async def test_it_waits_for_nobody_whose_evaluation_was_aborted():
    def leave(_, evaluation):
        evaluation.begin(0)
        evaluation.act(0)

    def work(source, _):
        source.begin(0)
        source.act(0)
        source.finish(1, idle=False)

    async with ServedThreads(3, 1, min_batch=2, max_wait=60.0) as served, asyncio.timeout(30):
        served.server.evaluating(0)
        await served.work([0], leave)
        served.server.evaluated()
        served.server.expect(0, 0)
        await served.work([0, 1], work)
        await served.work([2], work)  # there is nobody else
    assert served.server.acted == 4


async def test_the_mode_is_that_of_the_newest_batch_also_where_an_environment_begins_the_one_before_later():
    def fill(slot):
        def work(source, _):
            source.begin(slot)
            source.act(0)
            source.finish(1, idle=False)

        return work

    async with ServedThreads(2, 1) as served, asyncio.timeout(30):
        for slot, itr in ((0, 8), (1, 3)):  # the user may count in any way
            served.server.expect(itr, slot)
        for member, slot in ((0, 0), (0, 1), (1, 0), (1, 1)):
            await served.work([member], fill(slot))
        served.server.expect(4, 0)
        await served.work([1], fill(0))
    assert served.agent.itrs == (8, 3, 4)
