"""The stage on a device, without one: on a device that does all as late as it may, against the stage on the CPU."""

import asyncio
import contextlib

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
from aiosampler.collectors.environments import AgentFault
from aiosampler.memory.slot import slot_specs
from aiosampler.servers.accelerator import Accelerator
from aiosampler.servers.device import DeviceInference
from aiosampler.servers.inference import InPlaceInference
from aiosampler.servers.pipeline import Pipeline
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import tree_leaves, tree_map
from aiosampler.workers.random_streams import GroupStream
from tests.support.late_device import LateDevice

pytestmark = pytest.mark.usefixtures("same_generators")

SERVERS = [AsyncActionServer, AsyncAlternatingActionServer, AsyncNoOverlapAlternatingActionServer]
T, B = 5, 3
INTEGER, FLOAT = ArraySpec((), np.dtype(np.int64)), ArraySpec((), np.dtype(np.float32))


@pytest.fixture
def anyio_backend():
    return "asyncio"


class StateAgent(Agent):
    """Its new state is made of parts of the old one, of its inputs and of what it keeps, and its answer likewise."""

    recurrent = True

    def __init__(self, cuda_graph=False):
        self.cuda_graph, self.own = cuda_graph, torch.full((B,), 5)

    def initial_state(self, batch_size):
        ones = torch.ones((), dtype=torch.int64).expand(batch_size)
        return {"sum": ones, "last": torch.zeros(batch_size, dtype=torch.int64), "seen": ones, "own": 1 * ones}

    def step(self, inputs, state):
        total = (3 * state["sum"] + inputs.observation + inputs.prev_action + inputs.prev_reward.long()) % 1009
        action = (total + state["last"] + 2 * state["seen"] + state["own"]) % 5
        new_state = {"sum": total, "last": state["sum"], "seen": inputs.observation, "own": self.own}
        return AgentStep(action, {"info": state["last"]}, new_state)

    def value(self, inputs, state):
        return (state["sum"] + state["last"] + state["seen"] + inputs.observation % 7).float()


class DrawingAgent(StateAgent):
    """Draws on the device."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        noise = torch.rand(len(step.action)) + torch.zeros(len(step.action)).normal_()
        return step._replace(action=torch.randint_like(step.action, 1000), agent_info={"info": (1e6 * noise).long()})

    def value(self, inputs, state):
        return torch.rand(len(inputs.observation))


STEP = StepSpecs(observation=INTEGER, action=INTEGER, agent_info={"info": INTEGER}, env_info={},
                 state={"sum": INTEGER, "last": INTEGER, "seen": INTEGER, "own": INTEGER}, value=FLOAT)  # fmt: skip
SPECS = slot_specs(BatchSpec(T=T, B=B), STEP, sparse=False) | slot_specs(BatchSpec(T=T, B=B), STEP, sparse=True)


class World:
    """A group of environments that are functions of their actions, and write only where and when workers do."""

    stepping = True

    def __init__(self, slots, seed):
        self.slots, self.t, self.under_way = slots, -1, False
        self.row = np.array([[seed + b, 0, 0] for b in range(B)]).T  # observation, previous action and reward

    def begin(self, slot):
        self.slot, self.t = slot, -1
        for name in ("final_count", "final_value"):
            slot[name].fill(0)
        slot["valid"].fill(True)
        for name, array in zip(("observation", "prev_action", "prev_reward"), self.row, strict=True):
            slot[name][0] = array

    async def observations(self):
        await asyncio.sleep(0)
        if not self.under_way:
            if self.t >= 0:  # the next part of an evaluation
                self.begin(self.slot)
            return True
        slot, t, self.under_way = self.slot, self.t, False
        observation = (7 * slot["observation"][t] + slot["action"][t] + 3) % 1000
        ends = observation % 6 == 0
        slot["terminated"][t], slot["truncated"][t] = ends & (observation % 3 > 0), ends
        slot["reward"][t] = observation % 10
        for i in np.flatnonzero(ends):
            k = slot["final_count"][i]
            slot["final_observation"][i, k], slot["final_t"][i, k] = observation[i], t
            slot["final_count"][i] = k + 1
        slot["observation"][t + 1] = observation
        slot["prev_reward"][t + 1] = np.where(ends, 0, slot["reward"][t])
        slot["prev_action"][t + 1][ends] = 0
        return True

    def attend(self):
        pass

    def make_room(self):
        pass

    def send_actions(self):
        self.t, self.under_way = self.t + 1, True

    def dismiss(self):
        self.row = [self.slot[name][T].copy() for name in ("observation", "prev_action", "prev_reward")]


def make_slot():
    return tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), SPECS)


class Run:
    """Groups with a world and a stage each, for training and for evaluation."""

    def __init__(self, server, make_inference):
        def pipelines(first, slots, **arguments):
            worlds = [World([make_slot() for _ in range(slots)], first + 100 * g) for g in range(server.n_groups)]
            stages = [make_inference(g + first, world.slots, **arguments) for g, world in enumerate(worlds)]
            return [Pipeline(world, stage) for world, stage in zip(worlds, stages, strict=True)]

        self.training, self.evaluation = pipelines(1, 2), pipelines(11, 1, evaluation=True)
        self.server = server(self.training, self.evaluation, T=T, abort_evaluation=(False,))

    async def batch(self, itr):
        for pipeline in self.training:
            pipeline.group.begin(pipeline.group.slots[itr % 2])
        with torch.inference_mode():
            await self.server.serve_actions(itr, itr % 2)
        slots = [pipeline.group.slots[itr % 2] for pipeline in self.training]
        recorded = tree_map(np.copy, tuple(slots))
        for array in tree_leaves(tuple(slots)):
            array.fill(77)  # it is the user's now
        return recorded

    async def evaluate(self, itr):
        for pipeline in self.evaluation:
            pipeline.group.begin(pipeline.group.slots[0])
        with torch.inference_mode():
            await self.server.serve_actions_evaluation(itr, (T, T))
        return tree_map(np.copy, tuple(pipeline.group.slots[0] for pipeline in self.evaluation))


def on_cpu(server, agent):
    def inference(g, slots, **arguments):
        return InPlaceInference(agent, slots, None, np.zeros(8, np.int64), **arguments)

    return Run(server, inference)


def on_device(server, agent, device, **options):
    accelerator = Accelerator(torch.device("cpu"), device)

    def inference(g, slots, **arguments):
        arguments = {**options, **arguments, "noise": GroupStream(g, accelerator)}
        return DeviceInference(agent, slots, accelerator, None, np.zeros(8, np.int64), **arguments)

    return Run(server, inference)


def assert_equal(got, expected):
    for one, other in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.each_value
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("info_first", [False, True], ids=["info-later", "info-first"])
async def test_what_is_recorded_is_what_the_cpu_would_record(server, cuda_graph, info_first):
    device = LateDevice(seed=info_first)
    expected = on_cpu(server, StateAgent())
    got = on_device(server, StateAgent(cuda_graph), device, info_first=info_first)
    for itr in range(4):
        assert_equal(await got.batch(itr), await expected.batch(itr))
        if itr in (0, 2):
            assert_equal(await got.evaluate(itr), await expected.evaluate(itr))
    assert device.graphs_made == (2 * server.n_groups if cuda_graph else 0)  # evaluation has its own


@pytest.mark.each_value
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
async def test_what_is_drawn_depends_on_the_group_alone(server, cuda_graph):
    runs = []
    for seed in range(2):
        run = on_device(server, DrawingAgent(cuda_graph), LateDevice(seed))
        batches, evaluations = [], []
        for itr in range(3):
            batches.append(await run.batch(itr))
            if itr != seed:
                evaluations.append(await run.evaluate(itr))
        runs.append((batches, evaluations))
    for batches, evaluations in runs[1:]:
        assert_equal(tuple(batches), tuple(runs[0][0]))
        assert_equal(tuple(evaluations), tuple(runs[0][1]))
    batches, evaluations = runs[0]
    drawn = np.concatenate([slot["agent_info"]["info"].ravel() for batch in batches + evaluations for slot in batch])
    assert len(np.unique(drawn)) > 0.99 * len(drawn)


class UncapturableAgent(DrawingAgent):
    """Waits for the device in each step."""

    def step(self, inputs, state):
        inputs.observation.sum().item()
        return super().step(inputs, state)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_step_that_cannot_be_captured_goes_on_without_a_graph(server, caplog):
    device = LateDevice()
    run, eager = on_device(server, UncapturableAgent(True), device), on_device(server, DrawingAgent(), LateDevice(1))
    for itr in range(3):
        assert_equal(await run.batch(itr), await eager.batch(itr))  # and it draws as if nothing had been tried
    assert device.graphs_made == 0
    assert caplog.text.count("cannot be captured") == server.n_groups


async def test_a_device_without_graphs_does_not_try(caplog):
    run = on_device(AsyncActionServer, StateAgent(True), LateDevice(graphs=False))
    expected = on_cpu(AsyncActionServer, StateAgent())
    for itr in range(2):
        assert_equal(await run.batch(itr), await expected.batch(itr))
    assert not caplog.text


class ChangeableAgent(StateAgent):
    """Answers something else in its last steps."""

    def __init__(self, **changed):
        super().__init__()
        self.changed, self.steps = changed, 0

    def step(self, inputs, state):
        self.steps += 1
        step = super().step(inputs, state)
        return step._replace(**self.changed) if self.steps > T + 2 else step


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"action": torch.ones(1, dtype=torch.int64)}, r"action with the shape \[1\], expected \[3\]"),
        ({"action": torch.full((B,), 0.5)}, r"action with the dtype float32, expected int64"),
        ({"agent_info": {"info": torch.full((B,), 0.5)}}, r"agent_info\['info'\] with the dtype float32"),
        ({"agent_info": {"other": torch.ones(B)}}, "agent_info with the structure"),
        ({"agent_info": None}, "agent_info with the structure"),
        ({"action": "left"}, r"raised \w+ in step\(\)"),
    ],
    ids=str,
)
async def test_an_answer_that_changes_is_refused_not_converted(changed, words):
    run = on_device(AsyncActionServer, ChangeableAgent(**changed), LateDevice())
    with pytest.raises(AgentFault, match=words):
        for itr in range(2):
            await run.batch(itr)


async def test_arrays_are_taken_for_tensors():
    run = on_device(AsyncActionServer, ChangeableAgent(action=np.arange(B)), LateDevice())
    await run.batch(0)
    assert (await run.batch(1))[0]["action"][2:].tolist() == [[0, 1, 2]] * 3


async def test_steps_that_are_given_up_disturb_nobody():
    device = LateDevice()
    run, expected = (on_device(AsyncActionServer, StateAgent(), device) for device in (device, LateDevice(5)))
    for itr in range(3):
        assert_equal(await run.batch(itr), await expected.batch(itr))
        for pipeline in run.evaluation:
            pipeline.group.begin(pipeline.group.slots[0])
        with torch.inference_mode():
            serving = asyncio.ensure_future(run.server.serve_actions_evaluation(itr, (T, T)))
            while not any(stream.queue for stream in device.streams):  # noqa: ASYNC110 - nothing else to wait for
                await asyncio.sleep(0)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    assert_equal(await run.evaluate(9), await expected.evaluate(9))


async def test_all_is_done_when_parameters_were_loaded_and_before_memory_is_given_back():
    device, source = LateDevice(), torch.arange(3.0)
    accelerator = Accelerator(torch.device("cpu"), device)
    stage = DeviceInference(StateAgent(), [make_slot()], accelerator, None, np.zeros(8, np.int64))
    target = torch.zeros(3)
    for settle in (lambda: stage.prepare(0), accelerator.pin(np.zeros(1), 8)):
        with accelerator.on(accelerator.new_stream()):
            target.copy_(source, non_blocking=True)
        assert any(stream.queue for stream in device.streams)
        settle()
        assert torch.equal(target, source)
        source = source + 1


async def test_what_fails_on_the_device_is_a_fault_of_the_agent():
    run = on_device(AsyncActionServer, StateAgent(), LateDevice())
    (pipeline,) = run.training

    class Broken:
        def query(self):
            raise RuntimeError("device-side assert triggered")

        def record(self):
            pass

    pipeline.inference._on_device._marks[3] = Broken()
    with pytest.raises(AgentFault, match=r"RuntimeError in step\(\): device-side assert triggered"):
        await run.batch(0)
