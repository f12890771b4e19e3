"""The process that holds a sampler is left as it was, and may fork."""

import asyncio
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch

from aiosampler import CategoricalPgAgent
from tests.support.models import small_model
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.same_code
async def test_the_users_process_is_left_as_it_was(kind):
    await assert_left_as_it_was(kind, "forkserver")


@pytest.mark.slow
async def test_it_is_so_by_who_spawns_processes(same_generators):
    await assert_left_as_it_was("gpu", "spawn")


async def assert_left_as_it_was(kind, start_method):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    multiprocessing.set_start_method(None, force=True)  # undecided, as in a fresh process
    before = (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(),
        asyncio.get_event_loop_policy() if not hasattr(asyncio, "_get_event_loop_policy") else None,
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        multiprocessing.get_start_method(allow_none=True), dict(os.environ), os.sched_getaffinity(0),
        list(torch.cuda._lazy_seed_tracker.get_calls()),  # the seeds for when CUDA is initialised
    )  # fmt: skip
    async with small(kind, agent=CategoricalPgAgent(small_model), start_method=start_method) as sampler:
        await sampler.obtain_samples()
    after = (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(),
        asyncio.get_event_loop_policy() if not hasattr(asyncio, "_get_event_loop_policy") else None,
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        multiprocessing.get_start_method(allow_none=True), dict(os.environ), os.sched_getaffinity(0),
        list(torch.cuda._lazy_seed_tracker.get_calls()),  # the seeds for when CUDA is initialised
    )  # fmt: skip
    assert before == after


@pytest.mark.same_code
async def test_a_child_that_the_user_forks_does_not_end_the_sampler(kind):
    async with small(kind) as sampler:
        await sampler.obtain_samples()
        pid = os.fork()
        if pid == 0:
            try:
                sampler._session.process._abandoned()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it ends at once
        for _ in range(3):
            await sampler.obtain_samples()
