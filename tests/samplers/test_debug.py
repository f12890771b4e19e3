"""What ``debug=True`` adds."""

import pytest
import torch

from tests.support.agents import AgeAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.same_code]


@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
async def test_debugging_poisons_what_was_given_back_and_changes_nothing_else(kind, mid_batch_reset, same_generators):
    arguments = {
        "agent": AgeAgent(), "batch_T": 5, "batch_B": 4, "seed": 3, "bootstrap_value": True,
        "mid_batch_reset": mid_batch_reset, "env_info_keys": ("doubled", "parity"),
    }  # fmt: skip
    expected = InProcess(CountingEnv, **arguments)
    async with kind(CountingEnv, **arguments, start_method="fork", debug=True, overlap=False) as sampler:
        kept = None
        for _ in range(5):
            samples = await sampler.obtain_samples()
            assert_same(samples, expected.collect())
            if kept is not None:  # nothing is collected ahead, so nobody has written to its slot yet
                assert kept.env.observation.eq(torch.iinfo(torch.int64).min).all()
                assert kept.env.last_observation.eq(torch.iinfo(torch.int64).min).all()
                assert kept.env.env_info["parity"].eq(-128).all()
                for leaf in (kept.env.reward, kept.agent.agent_info["look"], kept.agent.initial_state["age"]):
                    assert leaf.isnan().all()
                assert kept.valid.all()
            kept = samples
    expected.close()


async def test_debugging_logs_what_the_sampler_and_its_processes_do(kind, caplog):
    caplog.set_level("INFO", "aiosampler")
    async with small(kind, eval_n_envs=1, eval_max_steps=9, debug=True) as sampler:
        for _ in range(2):
            await sampler.obtain_samples()
        await sampler.evaluate_agent()
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(f"{type(sampler).__name__} {id(sampler):x}: ") for line in lines)
    said = [line.split(": ", 1)[1] for line in lines]
    expected = [
        "new -> probing", "trying out the example environment", "probing -> probed", "probed -> starting",
        "resetting environment 0", "starting -> running", "collecting batch 0 into slot 0 with policy version 0",
        "collecting batch 1 into slot 1", "evaluating after batch 1", "running -> closed",
    ]  # fmt: skip
    remaining = iter(said)
    for what in expected:
        assert any(what in line for line in remaining), (what, said)


async def test_nothing_is_logged_without_debugging(kind, caplog):
    caplog.set_level("DEBUG", "aiosampler")
    async with small(kind) as sampler:
        await sampler.obtain_samples()
    assert caplog.records == []
