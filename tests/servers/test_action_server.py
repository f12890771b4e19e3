"""The action servers' coroutines, driven in memory: no process, no signal, no clock."""

import asyncio
import itertools

import numpy as np
import pytest
import torch

from aiosampler import (
    Agent,
    AgentStep,
    AsyncActionServer,
    AsyncAlternatingActionServer,
    AsyncNoOverlapAlternatingActionServer,
    BatchSpec,
)
from aiosampler.collectors.collector import Aborted
from aiosampler.collectors.environments import AgentFault
from aiosampler.memory.slot import slot_specs
from aiosampler.servers.inference import InPlaceInference
from aiosampler.servers.pipeline import Pipeline
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import tree_map

SERVERS = [AsyncActionServer, AsyncAlternatingActionServer, AsyncNoOverlapAlternatingActionServer]


@pytest.fixture
def anyio_backend():
    return "asyncio"


class LoggedGroup:
    """Takes a number of cycles of the event loop for a step, and has `lifetime` steps to take."""

    def __init__(self, name, log, cycles, lifetime=10**9):
        self.name, self.log, self.cycles, self.lifetime = name, log, cycles, lifetime
        self.steps = self.dismissals = 0
        self.under_way = False

    @property
    def stepping(self):
        return self.steps < self.lifetime

    async def observations(self):
        for _ in range(next(self.cycles)):
            await asyncio.sleep(0)
        if self.under_way:
            self.under_way = False
            self.log.append((self.name, "stepped"))
        return self.stepping

    def attend(self):
        assert not self.under_way

    def make_room(self):
        assert self.under_way

    def send_actions(self):
        assert self.stepping
        assert not self.under_way
        self.under_way = True
        self.steps += 1
        self.log.append((self.name, "steps"))

    def dismiss(self):
        assert not self.under_way
        self.dismissals += 1


class LoggedInference:
    """Takes a number of cycles of the event loop to act, on a device that does one thing at a time."""

    def __init__(self, name, log, cycles, device):
        self.name, self.log, self.cycles, self.device = name, log, cycles, device
        self.acted, self.finished = [], []

    def prepare(self, itr):
        self.itr = itr

    def begin(self, slot):
        self.slot = slot

    async def act(self, t):
        async with self.device:
            self.log.append((self.name, "infers"))
            for _ in range(next(self.cycles)):
                await asyncio.sleep(0)
            self.log.append((self.name, "inferred"))
        self.acted.append(t)

    def released(self, t):
        self.released_at = t

    def record_rest(self, t):
        assert self.released_at == t

    def stepped(self, t):
        pass

    def finish(self, T, *, idle):
        self.finished.append((T, idle))


def logged(n, log, lifetimes=(10**9, 10**9), pattern=(1, 3, 0, 2)):
    pipelines, device = [], asyncio.Lock()
    for g in range(n):
        cycles = itertools.cycle(pattern[g:] + pattern[:g])
        pipelines.append(Pipeline(LoggedGroup(g, log, cycles, lifetimes[g]), LoggedInference(g, log, cycles, device)))
    return pipelines


def make(server, pipelines, T, abort=(False,)):
    return server(pipelines, pipelines, T=T, abort_evaluation=abort)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("T", [1, 2, 5])
async def test_each_group_infers_and_steps_once_for_each_row(server, T):
    log = []
    pipelines = logged(server.n_groups, log)
    await make(server, pipelines, T).serve_actions(3, 1)
    for pipeline in pipelines:
        assert pipeline.inference.acted == list(range(T))
        assert pipeline.group.steps == T
        assert pipeline.group.dismissals == 1
        assert pipeline.inference.finished == [(T, False)]
        assert (pipeline.inference.itr, pipeline.inference.slot) == (3, 1)
        own = [event for name, event in log if name == pipeline.group.name]
        assert own == ["infers", "inferred", "steps", "stepped"] * T


def never_both_step(log):
    stepping = set()
    for name, event in log:
        if event == "steps":
            stepping.add(name)
        elif event == "stepped":
            stepping.discard(name)
        if len(stepping) == 2:
            return False
    return True


def overlaps(log):
    """How often one group infers while the other steps."""
    stepping, count = set(), 0
    for name, event in log:
        if event == "steps":
            stepping.add(name)
        elif event == "stepped":
            stepping.discard(name)
        elif event == "infers":
            count += bool(stepping - {name})
    return count


PATTERNS = [(1, 1, 1, 1), (0, 5, 0, 1), (7, 0, 0, 2), (0, 0, 9, 0), (3, 1, 4, 1, 5, 9, 2, 6)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("T", range(1, 7))
async def test_without_overlap_groups_never_step_at_the_same_time_wherever_they_end(pattern, T):
    for ends in itertools.product([*range(T + 1), 10**9], repeat=2):
        log = []
        pipelines = logged(2, log, ends, pattern)
        async with asyncio.timeout(5):
            await make(AsyncNoOverlapAlternatingActionServer, pipelines, T).serve_actions(0, 0)
        assert never_both_step(log), (ends, log)
        for pipeline, end in zip(pipelines, ends, strict=True):
            assert pipeline.group.steps == min(T, end)
            assert pipeline.inference.finished == [(T, end <= T)]
            assert pipeline.group.dismissals == 1


@pytest.mark.parametrize("server", SERVERS[1:])
@pytest.mark.parametrize("inferring", [0, 3, 20])
async def test_one_group_infers_while_the_other_steps(server, inferring):
    log, device = [], asyncio.Lock()
    pipelines = [
        Pipeline(LoggedGroup(g, log, itertools.repeat(8)), LoggedInference(g, log, itertools.repeat(inferring), device))
        for g in range(2)
    ]
    await make(server, pipelines, 20).serve_actions(0, 0)
    assert overlaps(log) >= 38  # of 40 steps, the first and the last are alone


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("chunks", [(1,), (4, 4, 4), (4, 4, 2)], ids=str)
async def test_evaluation_stops_when_all_groups_are_idle(server, chunks):
    total = sum(chunks)
    for ends in itertools.product(range(total + 2), repeat=server.n_groups):
        log = []
        pipelines = logged(server.n_groups, log, ends)
        async with asyncio.timeout(5):
            await make(server, pipelines, 4).serve_actions_evaluation(7, chunks)
        for pipeline, end in zip(pipelines, ends, strict=True):
            assert pipeline.group.steps == len(pipeline.inference.acted) == min(end, total)
            assert pipeline.inference.itr == 7
        if server is AsyncNoOverlapAlternatingActionServer:
            assert never_both_step(log)


@pytest.mark.parametrize("server", SERVERS)
async def test_an_evaluation_that_is_not_wanted_ends_at_its_next_step(server):
    abort = [False]
    pipelines = logged(server.n_groups, [])
    serving = make(server, pipelines, 4, abort).serve_actions_evaluation(0, itertools.repeat(4))
    serving = asyncio.create_task(serving)
    while pipelines[0].group.steps < 10:  # noqa: ASYNC110 - nothing is to wait for but the loop's next cycle
        await asyncio.sleep(0)
    abort[0] = True
    with pytest.raises(Aborted):
        await serving
    assert pipelines[0].group.steps <= 11


@pytest.mark.parametrize("server", SERVERS)
async def test_what_the_agent_raises_ends_all_pipelines(server):
    pipelines = logged(server.n_groups, [])

    async def fail(t):
        raise AgentFault("no idea")

    pipelines[-1].inference.act = fail
    before = asyncio.all_tasks()
    with pytest.raises(AgentFault, match="no idea"):
        await make(server, pipelines, 10**6).serve_actions(0, 0)
    assert asyncio.all_tasks() == before


class AddingAgent(Agent):
    """Recurrent: counts the steps of each episode, and acts by count and observation."""

    recurrent = True

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, dtype=torch.int64)

    def step(self, inputs, state):
        return AgentStep(inputs.observation + state, {"count": state.clone()}, state + 1)

    def value(self, inputs, state):
        return state.float()


class WorldInMemory:
    """A group whose one environment for each column observes twice its last action, and ends at given steps."""

    def __init__(self, slot, ends):
        self.slot, self.ends, self.t = slot, ends, -1
        self.stepping = True

    async def observations(self):
        await asyncio.sleep(0)
        if self.t >= 0:
            slot, t = self.slot, self.t
            slot["observation"][t + 1] = 2 * slot["action"][t] % 1000
            slot["terminated"][t] = self.ends[t]
        return True

    def attend(self):
        pass

    def make_room(self):
        pass

    def send_actions(self):
        self.t += 1

    def dismiss(self):
        self.t = -1


@pytest.mark.parametrize("server", SERVERS)
async def test_actions_state_and_values_are_written_for_each_group(server):
    T, n, integer = 4, 3, ArraySpec((), np.dtype(np.int64))
    specs = slot_specs(
        BatchSpec(T=T, B=n),
        StepSpecs(
            observation=integer, action=integer, agent_info={"count": integer}, env_info={}, state=integer,
            value=ArraySpec((), np.dtype(np.float32)),
        ),
        sparse=False,
    )  # fmt: skip
    pipelines = []
    for g in range(server.n_groups):
        slot = tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), specs)
        slot["valid"].fill(True)
        slot["observation"][0] = g + 1
        ends = np.zeros((T, n), bool)
        ends[1, 0] = ends[3, 2] = True
        inference = InPlaceInference(AddingAgent(), [slot], None, np.zeros(8, np.int64))
        pipelines.append(Pipeline(WorldInMemory(slot, ends), inference))
    await make(server, pipelines, T).serve_actions(0, 0)
    for pipeline in pipelines:
        slot = pipeline.group.slot
        assert slot["agent_info"]["count"].T.tolist() == [[0, 1, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
        assert slot["bootstrap_value"].tolist() == [2.0, 4.0, 0.0]
        assert (slot["action"] == slot["observation"][:T] + slot["agent_info"]["count"]).all()
        assert (slot["prev_action"][1:] == slot["action"]).all()
    states = [pipeline.group.slot["initial_state"].tolist() for pipeline in pipelines]
    await make(server, pipelines, T).serve_actions(1, 0)
    assert states == [[0, 0, 0]] * len(pipelines)
    assert [pipeline.group.slot["initial_state"].tolist() for pipeline in pipelines] == [[2, 4, 0]] * len(pipelines)
