"""What takes long is done beside the event loop of the user, by threads."""

import asyncio
import os
import threading

import numpy as np
import pytest
import torch

from aiosampler import CategoricalPgAgent
from aiosampler.memory.arena import Arena
from aiosampler.samplers import timeline
from aiosampler.samplers.shared_buffers import SharedBuffers
from tests.support.models import small_model
from tests.support.samplers import small

PARENT = os.getpid()

pytestmark = pytest.mark.usefixtures("no_leaks")


class _Met:
    """Where a thread of this process waits for its event loop, half-way."""

    begun, go_on = threading.Event(), threading.Event()

    @classmethod
    def meet(cls):
        cls.begun.set()
        assert cls.go_on.wait(20)


class _Meeting(CategoricalPgAgent):
    """Builds one half of its model, waits in one process, and builds the other."""

    def __init__(self, waits_in=None, draw=lambda: 0.0):
        super().__init__(self._build)
        self._waits_in, self._draw = waits_in, draw

    def _build(self, observation_space, action_space):
        self.thread = threading.current_thread() if os.getpid() == PARENT else None
        first = small_model(observation_space, action_space)
        self.drawn = self._draw()
        if os.getpid() == self._waits_in:
            _Met.meet()
        model = small_model(observation_space, action_space)
        model.first = first
        return model


def _tensors(agent):
    return torch.cat([parameter.flatten() for parameter in agent.model.parameters()])


async def built_alone(**arguments):
    agent = _Meeting(**arguments)
    async with small("serial", agent=agent):
        return _tensors(agent).clone(), agent.drawn


@pytest.mark.usefixtures("same_generators")
@pytest.mark.parametrize("kind", ["serial", "gpu"])
async def test_a_model_is_built_beside_others_who_draw_with_the_parameters_that_it_has_alone(kind):
    expected, _ = await built_alone()
    torch.manual_seed(3)
    draws = [torch.rand(1), torch.rand(1)]
    torch.manual_seed(3)
    _Met.begun.clear(), _Met.go_on.clear()
    sampler = small(kind, agent=(agent := _Meeting(os.getpid())))
    starting = asyncio.create_task(sampler.async_initialize())
    while not _Met.begun.is_set():  # noqa: ASYNC110 - it is set by another thread
        await asyncio.sleep(0.001)
    assert torch.rand(1) == draws[0]
    _Met.go_on.set()
    await starting
    assert torch.rand(1) == draws[1]
    assert agent.thread is not threading.main_thread()
    assert _tensors(agent).equal(expected)
    await sampler.aclose()


@pytest.mark.usefixtures("same_generators")
@pytest.mark.parametrize("kind", ["serial", "in-process"])
async def test_one_that_draws_otherwise_than_by_torch_is_built_where_nobody_else_draws(kind):
    expected, drawn = await built_alone(draw=np.random.rand)
    np.random.seed(3)
    agent = _Meeting(draw=np.random.rand)
    async with small(kind, agent=agent):
        assert agent.thread is threading.main_thread()
        assert (agent.drawn, _tensors(agent).tolist()) == (drawn, expected.tolist())
    drawn_outside = np.random.rand()
    np.random.seed(3)
    assert drawn_outside == np.random.rand()


async def test_in_your_own_process_and_thread_the_model_is_built_there():
    agent = _Meeting()
    expected, _ = await built_alone()
    async with small("in-process", agent=agent):
        assert agent.thread is threading.main_thread()
        assert _tensors(agent).equal(expected)


@pytest.mark.parametrize(
    ("owner", "name", "step"),
    [
        (Arena, "grow", "start"),
        (SharedBuffers, "__init__", "start"),
        (SharedBuffers, "unmap", "close"),
        (timeline, "write_trace", "trace"),
    ],
)
async def test_memory_and_traces_are_seen_to_in_threads(owner, name, step, monkeypatch, tmp_path):
    threads, function = [], getattr(owner, name)

    def noted(*args, **kwargs):
        threads.append(threading.current_thread())
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)
    async with small("serial") as sampler:
        assert bool(threads) == (step == "start")
        await sampler.obtain_samples()
        await sampler.atrace(tmp_path / "trace.json")
    assert threads
    assert threading.main_thread() not in threads
    assert (tmp_path / "trace.json").stat().st_size > 100
