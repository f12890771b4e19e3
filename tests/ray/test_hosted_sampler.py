"""The sampler of an actor, without a cluster: what it lends to Ray is not written to before Ray has copied it."""

import asyncio
import gc

import pytest

from aiosampler import AsyncSerialSampler
from aiosampler.agents.parameters import parameter_specs
from aiosampler.agents.sources import SourceMatcher
from aiosampler.specs.part import WHOLE
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same
from tests.support.worlds import CountingEnv

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.pickling import dumps
from aiosampler.ray.hosted_sampler import Beginning, HostedSampler
from aiosampler.ray.plan import make_plan
from aiosampler.ray.travel import as_bytes, unpacked

ARGUMENTS = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 2, "bootstrap_value": True}


@pytest.fixture
async def hosted(request):
    settings = {"env_fn": CountingEnv, "start_method": "fork", "debug": request.param, **ARGUMENTS}
    _, plan = make_plan(AsyncSerialSampler, settings, n=1, n_actors=1, num_cpus=None)
    made = HostedSampler()
    await made.probe(dumps(plan), Beginning(WHOLE, 3, 0, 0))
    model = made._sampler.agent.model
    await made.start(as_bytes(SourceMatcher(parameter_specs(model)).match(model)))
    yield made
    await made.close()


@pytest.mark.parametrize("hosted", [False], indirect=True)
async def test_batches_are_collected_in_the_order_in_which_they_were_asked_for(hosted):
    alone = InProcess(CountingEnv, seed=3, **ARGUMENTS)
    batches = [None] * 4

    async def obtain(turn):
        batches[turn] = unpacked(await hosted.next_batch(turn, 0, turn), hosted._kind).clone()

    await asyncio.gather(*map(obtain, (3, 1, 0, 2)))  # as Ray begins them
    for batch in batches:
        assert_same(batch, alone.collect())
    alone.close()


@pytest.mark.parametrize(("hosted", "at_once"), [(False, 2), (True, 1)], ids=["plain", "debug"], indirect=["hosted"])
async def test_a_slot_is_written_to_again_when_what_was_lent_of_it_is_gone(hosted, at_once):
    alone = InProcess(CountingEnv, seed=3, **ARGUMENTS)
    asked = [asyncio.create_task(hosted.next_batch(turn, 0, None)) for turn in range(4)]
    while asked:
        await asyncio.wait(asked[:at_once])
        done, *asked = asked
        await asyncio.sleep(0.1)  # were it not waited for, the next ones would be there
        assert sum(task.done() for task in asked) == min(at_once - 1, len(asked))
        reply = done.result()
        assert_same(unpacked(reply, hosted._kind), alone.collect())
        one = reply.samples.env.observation[1:]  # one view keeps all
        del reply, done
        gc.collect()
        await asyncio.sleep(0.1)
        assert sum(task.done() for task in asked) == min(at_once - 1, len(asked))
        del one
    alone.close()
