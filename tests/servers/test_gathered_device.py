"""Acting on a device for whoever is ready, against the CPU: on a stand-in that does all as late as it may."""

import asyncio
import contextlib

import numpy as np
import pytest
import torch

from aiosampler import Agent, AgentStep, BatchSpec
from aiosampler.collectors.environments import AgentFault
from aiosampler.memory.slot import columns, slot_specs
from aiosampler.servers.accelerator import Accelerator
from aiosampler.servers.dynamic_server import AsyncDynamicActionServer, BatchingRule, Branch
from aiosampler.servers.gathered import GatheredStepper
from aiosampler.servers.gathered_device import GatheredDeviceStepper
from aiosampler.signals.arrivals import Kind, Places
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import tree_leaves, tree_map
from tests.support.late_device import LateDevice
from tests.support.server_calls import serving_log

pytestmark = pytest.mark.usefixtures("same_generators")

T, BATCHES, SHARES = 5, 6, [range(2), range(2, 3), range(3, 6), range(6, 7)]
B = 7
INTEGER, FLOAT = ArraySpec((), np.dtype(np.int64)), ArraySpec((), np.dtype(np.float32))
STEP = StepSpecs(observation=INTEGER, action=INTEGER, agent_info={"look": INTEGER, "who": INTEGER}, env_info={},
                 state={"sum": INTEGER, "last": INTEGER}, value=FLOAT, policy_version=INTEGER)  # fmt: skip
SPECS = slot_specs(BatchSpec(T=T, B=B), STEP, sparse=False) | slot_specs(BatchSpec(T=T, B=B), STEP, sparse=True)


@pytest.fixture
def anyio_backend():
    return "asyncio"


class StateAgent(Agent):
    """Its new state is made of parts of the old one and of its inputs, and its answer likewise."""

    recurrent = True

    def __init__(self, cuda_graph=False, waits=False):
        self.cuda_graph, self.waits = cuda_graph, waits

    def initial_state(self, batch_size):
        ones = torch.ones((), dtype=torch.int64).expand(batch_size)
        return {"sum": ones, "last": torch.arange(batch_size)}

    def step(self, inputs, state):
        if self.waits:
            inputs.observation.sum().item()
        total = (3 * state["sum"] + inputs.observation + inputs.prev_action + inputs.prev_reward.long()) % 1009
        info = {"look": state["last"], "who": inputs.environments}
        return AgentStep((total + state["last"] + inputs.environments) % 5, info, {"sum": total, "last": state["sum"]})

    def value(self, inputs, state):
        return (state["sum"] + state["last"] + inputs.observation % 7 + inputs.environments).float()


class Workers:
    """In place of `ServerArrivals`: each member has a pace of its own, which counts turns of the event loop."""

    def __init__(self, paces, busy):
        specs = tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), SPECS)
        self.slots = [tree_map(np.copy, specs) for _ in range(2)]
        self.parts = [[columns(slot, share.start, len(share)) for share in SHARES] for slot in self.slots]
        self.paces, self._busy = paces, busy
        self.batch, self.t = [0] * len(SHARES), [0] * len(SHARES)
        self.left = list(paces)  # turns until each has arrived; None at the end
        self.rows = [np.array([[share.start + i, 0, 0] for i in range(len(share))]).T for share in SHARES]
        self.recorded = {}
        self.steps_while_busy = 0
        self.done = asyncio.Event()

    async def step(self):
        """Have the members take their steps."""
        while not self.done.is_set():
            await asyncio.sleep(0)
            for member, left in enumerate(self.left):
                if not left or self.batch[member] - min(self.batch) > 1:
                    continue
                self.left[member] = left - 1
                if left == 1:
                    self._take_step(member)

    def _take_step(self, member):
        t, slot = self.t[member], self.parts[self.batch[member] % 2][member]
        if t == 0:  # it begins a batch
            slot["valid"].fill(True)
            slot["terminated"].fill(False)
            slot["truncated"].fill(False)
            slot["final_count"].fill(0)
            slot["final_value"].fill(0)
            for name, array in zip(("observation", "prev_action", "prev_reward"), self.rows[member], strict=True):
                slot[name][0] = array
            return
        self.steps_while_busy += self._busy()
        t -= 1
        observation = (7 * slot["observation"][t] + slot["action"][t] + 3) % 1000
        ends = observation % 6 == 0
        slot["terminated"][t], slot["reward"][t] = ends, observation % 10
        for i in np.flatnonzero(ends):
            k = slot["final_count"][i]
            slot["final_observation"][i, k], slot["final_t"][i, k] = observation[i], t
            slot["final_count"][i] = k + 1
        slot["observation"][t + 1] = observation
        slot["prev_reward"][t + 1] = np.where(ends, 0, slot["reward"][t])
        slot["prev_action"][t + 1][ends] = 0

    def ready(self):
        return np.array([member for member, left in enumerate(self.left) if left == 0], np.int64)

    def places(self, members):
        kinds = [Kind.FINISH if self.t[member] == T else Kind.ACT for member in members]
        places = zip(members, kinds, strict=True)
        return Places(np.array([[self.t[m] << 8 | (self.batch[m] % 2) << 4 | kind, 0] for m, kind in places]))

    async def wait(self, known=0):
        await asyncio.sleep(0)

    def release(self, members):
        for member in members.tolist():
            self.left[member], self.t[member] = self.paces[member], self.t[member] + 1
            if self.t[member] <= T:
                continue
            slot = self.parts[self.batch[member] % 2][member]
            self.rows[member] = [slot[name][T].copy() for name in ("observation", "prev_action", "prev_reward")]
            self.batch[member], self.t[member] = self.batch[member] + 1, 0
            if self.batch[member] == BATCHES:
                self.left[member] = None
            if min(self.batch) not in (0, *self.recorded):
                whole = self.slots[(min(self.batch) - 1) % 2]
                self.recorded[min(self.batch)] = tree_map(np.copy, whole)
            if min(self.batch) == BATCHES:
                self.done.set()


async def collect(paces, agent, device=None):
    """All batches of members with these paces; and what had them acted for."""

    def busy():
        return device is not None and any(stream.queue for stream in device.streams)

    workers = Workers(paces, busy)
    with torch.inference_mode():
        if device is None:
            stepper = GatheredStepper(agent, workers.slots, SHARES)
        else:
            stepper = GatheredDeviceStepper(agent, workers.slots, SHARES, Accelerator(torch.device("cpu"), device))
    training = Branch(stepper, SHARES)
    server = AsyncDynamicActionServer(
        workers,
        agent,
        training,
        training,
        version=lambda: 7,
        rule=BatchingRule(),
        cells=np.zeros(8, np.int64),
        log=serving_log(B),
    )
    server.expect(0, 0)
    serving, stepping = asyncio.ensure_future(server.serve()), asyncio.ensure_future(workers.step())
    ended = asyncio.ensure_future(workers.done.wait())
    await asyncio.wait([serving, stepping, ended], return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, stepping, ended):
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return workers, server


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("paces", [[1, 1, 1, 1], [1, 9, 2, 40]], ids=str)
async def test_what_is_recorded_is_what_the_cpu_would_record_whoever_is_late(paces, cuda_graph):
    expected, _ = await collect([1, 2, 3, 4], StateAgent())
    device = LateDevice()
    workers, server = await collect(paces, StateAgent(cuda_graph), device)
    assert sorted(workers.recorded) == list(range(1, BATCHES + 1))
    for itr, batch in workers.recorded.items():
        for one, other in zip(tree_leaves(batch), tree_leaves(expected.recorded[itr]), strict=True):
            assert np.array_equal(one, other)
        assert (batch["agent_info"]["who"] == np.arange(B)).all()
    assert server.acted == BATCHES * T * B
    assert device.graphs_made <= 4  # of 1, 2, 4 and 7 rows
    assert (device.graphs_made > 0) == cuda_graph


async def test_environments_step_while_the_agent_acts_for_others():
    workers, _ = await collect([3, 4, 5, 6], StateAgent(), LateDevice())
    assert workers.steps_while_busy > 0


async def test_a_step_that_cannot_be_captured_goes_on_without_a_graph(caplog):
    expected, _ = await collect([1, 1, 1, 1], StateAgent())
    device = LateDevice()
    workers, _ = await collect([1, 1, 1, 1], StateAgent(cuda_graph=True, waits=True), device)
    assert np.array_equal(workers.recorded[BATCHES]["action"], expected.recorded[BATCHES]["action"])
    assert device.graphs_made == 0
    assert caplog.text.count("cannot be captured") == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"action": torch.ones(9, dtype=torch.int64)}, r"action with the shape \[9\], expected \[\d\]"),
        ({"action": torch.tensor(1)}, r"action with the shape \[\], expected \[\d\]"),
        ({"agent_info": {"look": torch.ones(B), "other": torch.ones(B)}}, "agent_info with the structure"),
        ({"state": {"sum": torch.ones(B), "last": torch.ones(B)}}, r"raised \w+ in step\(\)"),
        ({"action": "left"}, r"raised \w+ in step\(\)"),
    ],
    ids=str,
)
async def test_an_answer_that_does_not_fit_is_refused_not_converted(changed, words):
    class ChangedAgent(StateAgent):
        def step(self, inputs, state):
            return super().step(inputs, state)._replace(**changed)

    with pytest.raises(AgentFault, match=words):
        await collect([1, 1, 1, 1], ChangedAgent(), LateDevice())


async def test_nothing_is_recorded_of_a_member_that_is_lost_while_it_is_acted_for():
    device = LateDevice()
    slots = Workers([1] * 4, lambda: False).slots
    with torch.inference_mode():
        stepper = GatheredDeviceStepper(StateAgent(), slots, SHARES, Accelerator(torch.device("cpu"), device))
        slots[0]["agent_info"]["who"].fill(-1)
        stepper.launch(np.arange(4), np.zeros(4, np.int64), np.zeros(4, np.int64), 3)
        stepper.void([2])
        while not stepper.done():
            pass
        stepper.record()
    assert slots[0]["agent_info"]["who"][0].tolist() == [0, 1, 2, -1, -1, -1, 6]
    assert slots[0]["policy_version"][0].tolist() == [3, 3, 3, 0, 0, 0, 3]
