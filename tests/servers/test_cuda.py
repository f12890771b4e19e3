"""The action server on a CUDA device; on machines that have one."""

import functools
import time

import pytest
import torch

from aiosampler import (
    Agent,
    AgentStep,
    AsyncAlternatingSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    CategoricalPgAgent,
    ConfigError,
)
from tests.support.in_process import InProcess
from tests.support.models import small_model
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
    pytest.mark.usefixtures("no_leaks", "same_generators"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


DynamicSampler = functools.partial(AsyncGpuSampler, lockstep=False)


class WholeAgent(Agent):
    """Recurrent and deterministic in integers, which are the same on every device."""

    recurrent = True
    cuda_graph = False

    def __init__(self, cuda_graph=False, waits=False):
        self.cuda_graph, self.waits = cuda_graph, waits

    def initial_state(self, batch_size):
        return {"age": torch.zeros(batch_size, dtype=torch.int64), "sum": torch.ones(batch_size, 2, dtype=torch.int64)}

    def step(self, inputs, state):
        look = inputs.observation.sum(-1) + inputs.prev_action + inputs.prev_reward.long()
        if self.waits:
            look.max().item()
        total = (3 * state["sum"] + look[:, None]) % 1009
        return AgentStep((total[:, 0] + state["age"]) % 5, {"look": look}, {"age": state["age"] + 1, "sum": total})

    def value(self, inputs, state):
        return (state["sum"].sum(-1) + inputs.observation.sum(-1) % 7).float()


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize("device", ["cuda", ["cuda", "cuda"], ["cpu", "cuda"]], ids=str)
@pytest.mark.parametrize(
    "kind",
    [AsyncGpuSampler, DynamicSampler, AsyncAlternatingSampler, AsyncNoOverlapAlternatingSampler],
    ids=["gpu", "dynamic", "alternating", "no-overlap"],
)
async def test_batches_are_the_serial_ones_bit_for_bit(kind, device, mid_batch_reset, cuda_graph):
    arguments = {
        "batch_T": 6, "batch_B": 8, "seed": 3, "bootstrap_value": True, "eval_n_envs": 5, "eval_max_steps": 400,
        "eval_max_trajectories": 13, "mid_batch_reset": mid_batch_reset,
    }  # fmt: skip
    expected = InProcess(CountingEnv, agent=WholeAgent(), **arguments)
    async with kind(CountingEnv, agent=WholeAgent(cuda_graph), **arguments, device=device, n_workers=4) as sampler:
        for itr in range(7):
            assert_same(await sampler.obtain_samples(), expected.collect())
            if itr in (2, 3):
                assert sorted(map(repr, await sampler.evaluate_agent())) == sorted(map(repr, expected.evaluate()))
    expected.close()


@pytest.mark.parametrize("kind", [AsyncGpuSampler, DynamicSampler], ids=["gpu", "dynamic"])
async def test_published_parameters_reach_the_device(kind):
    agent = CategoricalPgAgent(small_model)
    async with small(kind, agent=agent, overlap=False, device="cuda", start_method="spawn") as sampler:
        assert (await sampler.obtain_samples()).policy_version == 0
        for version in range(1, 6):
            with torch.no_grad():
                agent.model.value.bias.fill_(float(version))
            assert sampler.publish() == version
            assert ((await sampler.obtain_samples()).agent.agent_info["value"] == version).all()


@pytest.mark.parametrize("kind", [AsyncGpuSampler, DynamicSampler], ids=["gpu", "dynamic"])
async def test_a_step_that_cannot_be_captured_goes_on_without_a_graph(kind, caplog):
    agent = WholeAgent(cuda_graph=True, waits=True)
    async with small(kind, agent=agent, device="cuda", start_method="spawn") as sampler:
        for _ in range(4):
            await sampler.obtain_samples()
    assert "cannot be captured as a CUDA graph" in caplog.text


class UnequalEnv(CountingEnv):
    """Each has a pace of its own."""

    def __init__(self, context=None):
        super().__init__()
        self._seconds = 0.0 if context is None else 0.0005 * context.index

    def step(self, action):
        time.sleep(self._seconds)
        return super().step(action)


def make_unequal(*, context):
    return UnequalEnv(context)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
async def test_nobody_waits_for_the_slowest_and_the_data_is_the_same(cuda_graph):
    """Steps of all sizes, and environments in two batches at once."""
    arguments = {"batch_T": 6, "batch_B": 8, "seed": 3, "bootstrap_value": True}
    expected = InProcess(CountingEnv, agent=WholeAgent(), **arguments)
    made = small(DynamicSampler, make_unequal, agent=WholeAgent(cuda_graph), **arguments, device="cuda", n_workers=8,
                 start_method="spawn")  # fmt: skip
    async with made as sampler:
        for _ in range(12):
            assert_same(await sampler.obtain_samples(), expected.collect())
    expected.close()


def test_forked_processes_cannot_use_cuda():
    with pytest.raises(ConfigError, match="CUDA does not work in forked processes"):
        small(functools.partial(AsyncGpuSampler, device="cuda"), start_method="fork")
