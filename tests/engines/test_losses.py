"""What is blank in a batch in which a worker was lost, what goes on, and what is counted."""

import functools

import numpy as np
import psutil
import pytest
import torch

from aiosampler import WorkerDied, WorkerError, WorkerTimeout, environment_seed
from aiosampler.engines.losses import blank
from aiosampler.memory.slot import columns
from tests.support.losses import (
    SEED,
    B,
    Replay,
    assert_others_same,
    assert_whole,
    ends,
    fated,
    four_workers,
    oracle,
    seeds,
)
from tests.support.processes import until, workers
from tests.support.samplers import PARALLEL, leaves

pytestmark = [pytest.mark.usefixtures("no_leaks", "same_generators"), pytest.mark.same_code]


@pytest.fixture(params=PARALLEL)
def parallel(request):
    return functools.partial(four_workers, request.param)


KINDS_OF_FAILURE = {"raise": WorkerError, "kill": WorkerDied, "hang": WorkerTimeout, "shape": WorkerError}


@pytest.mark.each_value
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize("fault", KINDS_OF_FAILURE)
async def test_a_worker_lost_in_a_batch_takes_its_open_rows_along_and_nothing_else(parallel, fault, mid_batch_reset):
    expected = oracle(mid_batch_reset=mid_batch_reset)
    ours, n = (2, 3), 15  # the columns of the worker; the step of environment 3 that fails
    taken, failed = 0, False
    replays = [Replay(b, mid_batch_reset) for b in ours]
    timeout = 0.5 if fault == "hang" else None
    sampler = parallel(fated(fault, 3, n=n), mid_batch_reset=mid_batch_reset, step_timeout=timeout)
    async with sampler:
        for _ in range(8):
            got, right = await sampler.obtain_samples(), expected.collect()
            assert_whole(got)
            assert_others_same(got, right, ours)
            assert got.stats.env_steps == got.valid.sum()
            steps = torch.nonzero(right.valid[:, 3])[:, 0].tolist()
            if failed:
                for replay in replays:
                    replay.check(got)
                assert (got.stats.restarts, got.stats.lost_steps, got.stats.lost_episodes) == (0, 0, 0)
            elif taken + len(steps) < n:
                taken += len(steps)
                assert torch.equal(got.valid, right.valid)
            else:
                failed, end = True, steps[n - taken - 1]
                columns = list(ours)
                assert torch.equal(got.valid[:end, columns], right.valid[:end, columns])
                assert not got.valid[end:, columns].any()
                for (name, a), (_, b) in zip(leaves(got), leaves(right), strict=True):
                    if a.shape[:2] == got.valid.shape:
                        assert torch.equal(a[:end, columns], b[:end, columns]), name
                assert not got.agent.bootstrap_value[columns].any()
                values = ends(right.agent.final_value, ours).items()
                assert ends(got.agent.final_value, ours) == {at: value for at, value in values if at[0] < end}
                ended = [bool(right.env.done[:end, b].any()) and not mid_batch_reset for b in ours]
                assert got.stats.lost_steps == sum(5 - end for waits in ended if not waits)
                assert got.stats.lost_episodes == right.env.done[:end, columns].sum() + ended.count(False)
                assert got.stats.restarts == 1
                lost = got.stats
        assert failed
        assert sampler.statistics().state == "running"
    statistics = sampler.statistics()
    (failure,) = statistics.failures
    assert type(failure) is KINDS_OF_FAILURE[fault]
    assert (failure.rank, failure.env_index, failure.earlier) == (1, 3, ())
    assert statistics.lost_steps == lost.lost_steps
    assert statistics.lost_episodes == lost.lost_episodes
    assert (statistics.restarts, statistics.batches, statistics.policy_version) == (1, 8, 0)
    expected.close()


async def test_a_worker_lost_between_batches_costs_no_step(parallel):
    expected = oracle()
    async with parallel(overlap=False) as sampler:
        for _ in range(2):
            assert_others_same(await sampler.obtain_samples(), expected.collect(), ())
        victim = workers(sampler)[2]
        victim.kill()
        await until(lambda: not psutil.pid_exists(victim.pid))  # its parent has taken note
        for restarts in (1, 0, 0):
            samples, right = await sampler.obtain_samples(), expected.collect()
            if restarts:
                anew = [b for b in range(B) if samples.env.observation[0, b, 0].item() in seeds([b], [1])]
                assert anew in ([0, 1], [2, 3], [4, 5], [6, 7])
                replays = [Replay(b, True) for b in anew]
            assert samples.valid.all()
            assert_whole(samples)
            assert_others_same(samples, right, anew)
            for replay in replays:
                replay.check(samples)
            assert (samples.stats.restarts, samples.stats.lost_steps) == (restarts, 0)
            assert samples.stats.lost_episodes == 2 * restarts
        assert [type(failure) for failure in sampler.statistics().failures] == [WorkerDied]
    expected.close()


@pytest.mark.each_value
@pytest.mark.parametrize("fault", ["kill", "raise"])
async def test_a_worker_lost_in_an_evaluation_takes_its_episodes_of_it_along(parallel, fault):
    arguments = {"eval_n_envs": 8, "eval_max_steps": 400, "eval_max_trajectories": 24}
    expected = oracle(**arguments)
    async with parallel(fated(fault, 5, n=3, evaluation=True), **arguments) as sampler:
        assert_others_same(await sampler.obtain_samples(), expected.collect(), ())
        infos, right = await sampler.evaluate_agent(), expected.evaluate()
        lost = {environment_seed(SEED, b, evaluation=True) for b in (4, 5)}
        assert sorted(map(repr, infos)) == sorted(repr(info) for info in right if info.last[0] not in lost)
        assert sampler.statistics().restarts == 1
        assert_others_same(await sampler.obtain_samples(), expected.collect(), ())  # was collected before
        replays = [Replay(b, True) for b in (4, 5)]
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert samples.valid.all()
            assert samples.stats.restarts == 0
            assert_others_same(samples, expected.collect(), (4, 5))
            for replay in replays:
                replay.check(samples)
        assert len(await sampler.evaluate_agent()) == 24
        statistics = sampler.statistics()
        assert (statistics.evaluations, statistics.restarts, statistics.lost_episodes) == (2, 1, 2)
    expected.close()


@pytest.mark.each_value
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
async def test_when_all_workers_are_lost_the_batch_ends_early(parallel, mid_batch_reset):
    arguments = {"mid_batch_reset": mid_batch_reset, "max_worker_restarts": 4}
    async with parallel(fated("kill", *range(0, B, 2), n=1), **arguments) as sampler:
        samples = await sampler.obtain_samples()
        assert not samples.valid.any()
        assert_whole(samples)
        assert (samples.stats.restarts, samples.stats.lost_steps, samples.stats.lost_episodes) == (4, 5 * B, 0)
        replays = [Replay(b, mid_batch_reset) for b in range(B)]
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert_whole(samples)
            for replay in replays:
                replay.check(samples)


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
@pytest.mark.parametrize("complete", range(6))
def test_a_last_row_without_what_follows_it_is_not_valid(complete, mid_batch_reset):
    run = oracle(mid_batch_reset=mid_batch_reset)
    samples = run.collect()
    done = samples.env.done[:complete, 2:5].numpy().copy()
    steps, ended, waiting = blank(columns(run.slots[0], 2, 3), np.arange(5) < complete, waits=not mid_batch_reset)
    assert_whole(samples)
    assert ended == done.sum()
    assert waiting.tolist() == (done.any(0) & (not mid_batch_reset)).tolist()
    lost = 0
    for b, ended_at in enumerate(done.T, 2):
        if waiting[b - 2]:
            rows = ended_at.argmax() + 1
        else:
            rows = 4 if complete == 5 and not ended_at[-1] else complete
            lost += 5 - rows
        assert samples.valid[:, b].tolist() == [t < rows for t in range(5)]
        assert not samples.env.observation[rows:, b].any()
    assert steps == lost
    assert not samples.agent.bootstrap_value[2:5].any()
    run.close()
