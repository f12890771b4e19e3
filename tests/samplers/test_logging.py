"""What environments and agents log in the processes of a sampler."""

import logging
import os

import pytest

from aiosampler import RandomAgent, WorkerDied
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")

log = logging.getLogger("tests.world")


class Talking(CountingEnv):
    """Says what it is, and at one step that it ends its process."""

    def __init__(self, context, ends=False):
        super().__init__()
        self._taken, self._ends = 0, ends and context is not None and not context.restarts
        self._who = None if context is None else (context.index, context.evaluation, context.restarts)
        log.info("built", extra={"who": self._who})
        log.debug("not wanted", extra={"who": self._who})

    def step(self, action):
        self._taken += 1
        if self._ends and self._taken == 8:
            log.error("going", extra={"who": self._who})
            os._exit(1)
        return super().step(action)

    def close(self):
        log.warning("closed", extra={"who": self._who})


class TalkingAgent(RandomAgent):
    def sample_mode(self, itr):
        super().sample_mode(itr)
        logging.getLogger("tests.agent").info("batch %d", itr)


def said(caplog):
    return sorted(
        (record.getMessage(), *record.who)
        for record in caplog.records
        if record.name == log.name and record.who and record.process != os.getpid()
    )


@pytest.mark.each_kind
async def test_records_of_environments_and_agents_are_handled_here(kind, caplog):
    caplog.set_level(logging.INFO)
    arguments = {"eval_n_envs": 2, "eval_max_steps": 4, "batch_T": 2}
    async with small(kind, lambda context: Talking(context), agent=TalkingAgent(), **arguments) as sampler:
        await sampler.obtain_samples()
        await sampler.evaluate_agent()
    indices = [*((b, False, 0) for b in range(4)), *((b, True, 0) for b in range(2))]
    assert said(caplog) == sorted((what, *who) for what in ("built", "closed") for who in indices)
    assert "batch 0" in caplog.messages
    assert {record.processName.split("-")[0] for record in caplog.records} <= {"aiosampler", "MainProcess"}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
async def test_what_a_process_said_last_arrives_though_it_crashed(name, caplog):
    caplog.set_level(logging.INFO)
    arguments = {"batch_B": 2, "batch_T": 4, "max_worker_restarts": 2}
    async with small(name, lambda context: Talking(context, ends=True), **arguments) as sampler:
        for _ in range(5):
            await sampler.obtain_samples()
    expected = [("built", b, False, n) for b in range(2) for n in range(2)]
    expected += [("going", b, False, 0) for b in range(2)] + [("closed", b, False, 1) for b in range(2)]
    assert said(caplog) == sorted(expected)


async def test_it_arrives_before_the_error(caplog):
    with pytest.raises(WorkerDied):
        async with small("serial", lambda context: Talking(context, ends=True), batch_B=1) as sampler:
            async for _ in sampler:
                pass
    assert ("going", 0, False, 0) in said(caplog)


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
async def test_processes_know_the_levels_that_were_set_here(start_method, caplog):
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.DEBUG, "tests")
    async with small("serial", lambda context: Talking(context), start_method=start_method, batch_B=1):
        pass
    assert [what for what, *_ in said(caplog)] == ["built", "closed", "not wanted"]


async def test_a_logger_that_is_handled_apart_here_is_so_for_forked_processes(caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, log.name)
    async with small("serial", lambda context: Talking(context), batch_B=1):
        pass
    assert said(caplog) == [("built", 0, False, 0), ("closed", 0, False, 0)]
