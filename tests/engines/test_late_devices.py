"""Samplers whose agents act on devices that do all as late as they may: the same batches as on the CPU."""

import functools

import pytest
import torch

from aiosampler import AgentStep, AsyncAlternatingSampler, AsyncGpuSampler
from aiosampler.engines import served_engine
from aiosampler.servers.accelerator import Accelerator
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.late_device import LateDevice
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks", "same_generators"), pytest.mark.slow]


@pytest.fixture
def devices(monkeypatch):
    """Two devices that this process finds; the processes of a sampler find theirs by `OnLateDevice`."""
    monkeypatch.setattr(torch, "xpu", LateDevice(devices=2))
    monkeypatch.setattr(served_engine, "accelerator", served_engine.accelerator)


class OnLateDevice:
    """An agent's process has late devices in place of real ones."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        served_engine.accelerator = self._accelerator

    @staticmethod
    def _accelerator(name):
        return Accelerator(torch.device("cpu"), LateDevice(seed=torch.device(name).index, devices=2))


class LateAgeAgent(OnLateDevice, AgeAgent):
    cuda_graph = True


class LateDrawingAgent(OnLateDevice, LookingAgent):
    cuda_graph = True

    def step(self, inputs, state):
        step = super().step(inputs, state)
        return AgentStep(torch.randint_like(step.action, 5), {"noise": torch.rand(len(step.action))}, None)


KINDS = [
    functools.partial(AsyncGpuSampler, n_workers=2, device="xpu"),
    functools.partial(AsyncAlternatingSampler, n_workers=4, device=["xpu:0", "xpu:1"]),
]


@pytest.mark.parametrize("kind", KINDS, ids=["gpu", "alternating-two-devices"])
async def test_batches_are_the_serial_ones_bit_for_bit(devices, kind):
    arguments = {
        "batch_T": 5, "batch_B": 8, "bootstrap_value": True, "eval_n_envs": 5, "eval_max_steps": 200,
        "eval_max_trajectories": 9, "seed": 3,
    }  # fmt: skip
    expected = InProcess(CountingEnv, agent=AgeAgent(), **arguments)
    async with small(kind, agent=LateAgeAgent(), start_method="forkserver", **arguments) as sampler:
        for itr in range(4):
            assert_same(await sampler.obtain_samples(), expected.collect())
            if itr == 1:
                assert sorted(map(repr, await sampler.evaluate_agent())) == sorted(map(repr, expected.evaluate()))
    expected.close()


@pytest.mark.parametrize("device", ["xpu", ["xpu:0", "xpu:1"]], ids=str)
async def test_columns_are_the_serial_ones_where_nobody_waits(devices, device):
    arguments = {
        "batch_T": 5, "batch_B": 8, "bootstrap_value": True, "eval_n_envs": 5, "eval_max_steps": 200,
        "eval_max_trajectories": 9, "seed": 3,
    }  # fmt: skip
    kind = functools.partial(AsyncGpuSampler, n_workers=4, device=device, lockstep=False)
    expected = InProcess(CountingEnv, agent=AgeAgent(), **arguments)
    async with small(kind, agent=LateAgeAgent(), start_method="forkserver", **arguments) as sampler:
        for itr in range(4):
            samples = await sampler.obtain_samples()
            assert (samples.agent.policy_version == 0).all()
            assert_same(samples, expected.collect())
            if itr == 1:
                assert sorted(map(repr, await sampler.evaluate_agent())) == sorted(map(repr, expected.evaluate()))
    expected.close()


async def test_what_is_drawn_on_devices_repeats_with_evaluation_or_without(devices):
    arguments = {"batch_B": 8, "eval_n_envs": 4, "eval_max_steps": 40, "start_method": "forkserver"}
    found = []
    for evaluates in (False, True):
        async with small(KINDS[1], agent=LateDrawingAgent(), **arguments) as sampler:
            batches = []
            for _ in range(3):
                batches.append((await sampler.obtain_samples()).agent.agent_info["noise"].clone())
                if evaluates:
                    await sampler.evaluate_agent()
            found.append(torch.cat(batches))
    assert torch.equal(*found)
    assert len(found[0].unique()) == found[0].numel()
