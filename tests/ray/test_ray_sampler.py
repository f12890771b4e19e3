"""Samplers on a cluster of three nodes: the same data, from any of them, and what is lost with a node is told."""

import asyncio
import gc
import subprocess
import sys

import psutil
import pytest
import torch

from aiosampler import (
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncSerialSampler,
    CategoricalPgAgent,
    SamplerClosed,
    UnknownAttribute,
    WorkerDied,
    WorkerError,
    environment_seed,
)
from aiosampler.errors import ResourceError
from aiosampler.specs.part import Part
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.models import LinearActorCritic
from tests.support.processes import until
from tests.support.samplers import assert_same
from tests.support.worlds import CountingEnv, FaultyEnv

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.ray import RaySampler
from aiosampler.ray.joining import joined

pytestmark = [
    pytest.mark.slow,  # they share a cluster, which takes ten seconds to start
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def small(kind=AsyncSerialSampler, env_fn=CountingEnv, **arguments):
    defaults = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 2, "seed": 5, "n_actors": 2, "place_timeout": 30}
    return RaySampler(kind, env_fn, **{**defaults, **arguments})


async def test_together_they_are_one_local_sampler_bit_for_bit():
    settings = {"agent": CategoricalPgAgent(LinearActorCritic), "batch_T": 6, "seed": 3, "overlap": False}
    settings |= {"eval_n_envs": 2, "eval_max_steps": 400, "bootstrap_value": True, "max_decorrelation_steps": 9}
    across = RaySampler(AsyncCpuSampler, "CartPole-v1", n_actors=2, together=True, batch_B=3, **settings)
    settings |= {"agent": CategoricalPgAgent(LinearActorCritic), "eval_n_envs": 4}
    local = AsyncCpuSampler("CartPole-v1", batch_B=6, n_workers=2, **settings)
    async with across, local:
        for itr in range(4):
            for sampler in (across, local):
                with torch.no_grad():
                    for parameter in sampler.agent.model.parameters():
                        parameter += 0.01 * itr
                assert sampler.publish() == itr + 1
            got, expected = await across.obtain_samples(), await local.obtain_samples()
            assert_same(got, expected)
            assert (got.itr, got.policy_version) == (expected.itr, expected.policy_version) == (itr, itr + 1)
            assert got.stats.actors == (0, 1)
        evaluations = [await sampler.evaluate_agent(max_trajectories=7) for sampler in (across, local)]
        assert [vars(info) for info in evaluations[0]] == [vars(info) for info in evaluations[1]]
        assert len(evaluations[0]) == 7
        ours, theirs = across.statistics(), local.statistics()
        assert (ours.batches, ours.env_steps, ours.episodes, ours.eval_return) == (
            theirs.batches, theirs.env_steps, theirs.episodes, theirs.eval_return
        )  # fmt: skip
        assert across.state_dict() == local.state_dict()


async def test_batches_come_from_whoever_is_ready_and_are_not_torn():
    async with small(AsyncAlternatingSampler, batch_B=4, num_cpus=1, n_workers=2, max_ahead=2) as sampler:
        held, numbers = [], {0: [], 1: []}
        async for samples in sampler:
            (actor,), (node,) = samples.stats.actors, samples.stats.nodes
            assert node == sampler.statistics().actors[actor].node
            numbers[actor].append(samples.itr)
            held.append((samples, samples.clone()))
            if len(held) == 20:
                break
        for kept, copy in held:  # a batch is the user's own for as long as it is kept
            assert_same(kept, copy)
        for actor, itrs in numbers.items():
            assert itrs == list(range(len(itrs)))
            assert sampler.statistics().actors[actor].batches == len(itrs)
        arguments = {"agent": LookingAgent(), "batch_T": 5, "batch_B": 4, "seed": 5}
        alone = [InProcess(CountingEnv, Part(k, 2), **arguments) for k in range(2)]
        for kept, _ in held:
            assert_same(kept, alone[kept.stats.actors[0]].collect())
        for one in alone:
            one.close()
        assert all(actor.ahead <= 2 for actor in sampler.statistics().actors)
        held[0][0].env.reward.zero_()  # it may be written to
        assert {actor.node for actor in sampler.statistics().actors} <= {node["NodeID"] for node in nodes()}
    with pytest.raises(SamplerClosed):
        await sampler.obtain_samples()


async def test_environments_are_spoken_to_by_their_index_among_all():
    async with small(env_kwargs=lambda b: {"longest": 7 + b}) as sampler:
        assert await sampler.get_attr("_longest") == [7, 8, 9, 10]
        assert await sampler.get_attr("_longest", env_indices=[3, 0]) == [10, 7]
        await sampler.set_attr("_longest", [4, 3, 2, 1])
        assert await sampler.get_attr("_longest") == [4, 3, 2, 1]
        with pytest.raises(UnknownAttribute, match="step_back"):
            await sampler.call("step_back", env_indices=[1, 2])
        await sampler.set_reset_options({"level": 1})
        assert (await sampler.obtain_samples()).valid.all()  # and it goes on


async def test_cancelling_loses_no_batch():
    async with small(n_actors=1) as sampler:
        for itr in range(5):
            task = asyncio.create_task(sampler.obtain_samples(copy=True))  # suspends at least while it is copied
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sampler.obtain_samples()).itr == itr


async def test_a_lost_node_is_told_and_the_run_goes_on(cluster):
    async with small(max_actor_restarts=1, max_ahead=1) as sampler:
        await sampler.set_attr("_longest", [9, 8, 6, 5])
        before = await sampler.obtain_samples()
        doomed = next(actor for actor in sampler.statistics().actors if actor.node != driver_node())
        cluster.remove_node(next(n for n in cluster.list_all_nodes() if n.node_id == doomed.node), allow_graceful=False)
        collected = []
        async with asyncio.timeout(60):
            while not sampler.statistics().restarts:
                collected.append(await sampler.obtain_samples(copy=True))
            while not (collected[-1].stats.actors == (doomed.index,) and collected[-1].stats.nodes != (doomed.node,)):
                collected.append(await sampler.obtain_samples(copy=True))
        statistics = sampler.statistics()
        (failure,) = statistics.failures
        assert isinstance(failure, WorkerDied)
        assert f"actor {doomed.index} on node" in str(failure)
        assert statistics.actors[doomed.index].restarts == 1
        assert statistics.lost_batches >= 1
        first = 2 * doomed.index
        seeds = [environment_seed(sampler.seed, b, restarts=1) for b in range(first, first + 2)]
        assert collected[-1].env.observation[0, :, 0].tolist() == seeds
        assert await sampler.get_attr("_longest") == [9, 8, 6, 5]  # the new ones were told
        assert before.env.observation.shape == (5, 2, 3)
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)


async def test_a_loss_beyond_the_allowed_ends_it():
    with pytest.raises(WorkerDied, match=r"actor 0 on node .* was lost") as error:
        async with small(n_actors=1) as sampler:
            await sampler.obtain_samples()
            psutil.Process(sampler.statistics().actors[0].pid).kill()
            async with asyncio.timeout(60):
                async for _ in sampler:
                    pass
    assert sampler.statistics().error is error.value
    with pytest.raises(WorkerDied):
        await sampler.wait_closed()


async def test_losses_are_noticed_while_nothing_is_asked_of_it():
    with pytest.raises(WorkerDied) as error:
        async with small(overlap=False, together=True, max_actor_restarts=1) as sampler, asyncio.timeout(60):
            lost = sampler.statistics().actors[1].pid
            psutil.Process(lost).kill()
            await until(lambda: sampler.statistics().actors[1].pid not in (None, lost), 60)  # it is replaced
            assert (await sampler.obtain_samples()).valid.all()
            psutil.Process(sampler.statistics().actors[0].pid).kill()
            with pytest.raises(WorkerDied, match="actor 0 on node"):
                await sampler.wait_closed()
            assert sampler.statistics().state == "closed"
            with pytest.raises(SamplerClosed, match="closed by: actor 0 on node"):
                await sampler.obtain_samples()
            raise sampler.statistics().error
    assert [failure.rank for failure in error.value.earlier] == [1]


async def test_a_failure_while_nothing_is_asked_is_raised_once():
    with pytest.raises(WorkerDied, match="actor 0 on node"):
        async with small(n_actors=1, overlap=False) as sampler:
            psutil.Process(sampler.statistics().actors[0].pid).kill()
            await until(lambda: sampler.statistics().state == "closed", 60)
    with pytest.raises(SamplerClosed):
        sampler.publish()


async def test_a_sampler_that_is_dropped_takes_its_actors_along():
    sampler = await small(n_actors=1).__aenter__()
    actor = psutil.Process(sampler.statistics().actors[0].pid)
    del sampler
    gc.collect()
    await until(lambda: not actor.is_running(), 60)


async def test_an_environment_that_raises_names_its_actor():
    with pytest.raises(WorkerError, match="the sky fell") as error:
        async with small(env_fn=lambda: FaultyEnv("raise")) as sampler:
            async for _ in sampler:
                pass
    assert any("It happened in actor" in note for note in error.value.__notes__)


async def test_actors_that_find_no_place_are_refused_in_a_sentence():
    with pytest.raises(ResourceError, match=r"n_actors=9 with 1 CPU each do not fit .* have room for 3"):
        async with small(n_actors=9):
            pass
    async with small():  # which leaves one CPU
        with pytest.raises(ResourceError, match="was not placed within place_timeout=1 s: the 1 CPU"):
            async with small(place_timeout=1):
                pass


def test_ranks_record_together_what_one_sampler_does_and_need_no_event_loop():
    ranks = [small(n_actors=1, rank=rank, n_ranks=2, overlap=False, bootstrap_value=True) for rank in range(2)]
    whole = InProcess(CountingEnv, agent=LookingAgent(), batch_T=5, batch_B=4, seed=5, bootstrap_value=True)
    with ranks[0].sync() as first, ranks[1].sync() as second:
        pids = {sampler.statistics().actors[0].pid for sampler in (first, second)}
        assert len(pids) == 2  # each has actors of its own
        for itr in range(4):
            assert first.publish() == second.publish() == itr + 1
            batches = [sampler.obtain_samples() for sampler in (first, second)]
            assert [samples.policy_version for samples in batches] == [itr + 1] * 2
            assert_same(joined(batches), whole.collect())
    whole.close()


PROGRAM = """
import asyncio, os, ray, sys
from aiosampler import AsyncCpuSampler
from aiosampler.ray import RaySampler
from aiosampler.specs.part import Part
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess
from tests.support.worlds import CountingEnv

async def main():
    settings = dict(agent=LookingAgent(), batch_T=5, batch_B=2, n_actors=2)
    async with RaySampler(AsyncCpuSampler, CountingEnv, **settings) as sampler:
        await sampler.obtain_samples()
        print(*[actor.pid for actor in sampler.statistics().actors], flush=True)
        await asyncio.sleep(600)

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
asyncio.run(main())
"""


def test_a_driver_that_is_killed_leaves_no_process(cluster):
    driver = subprocess.Popen([sys.executable, "-c", PROGRAM, cluster.address], stdout=subprocess.PIPE, text=True)
    actors = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    assert len(actors) == 2
    below = [process for actor in actors for process in actor.children(recursive=True)]
    assert len(below) >= 4  # a sampler process and a worker each
    driver.kill()
    driver.wait()
    driver.stdout.close()
    _, alive = psutil.wait_procs([*actors, *below], timeout=30)
    assert alive == []


def nodes():
    import ray

    return ray.nodes()


def driver_node():
    import ray

    return ray.get_runtime_context().get_node_id()
