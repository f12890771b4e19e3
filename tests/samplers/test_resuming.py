"""Runs that go on in another process."""

import asyncio
import json
import os
import signal
import sys
import textwrap
import traceback

import pytest
import torch

from aiosampler import AsyncSerialSampler, ConfigError, SamplerError, environment_seed
from tests.support.agents import LookingAgent, NoisyAgent
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")
STATE = {"seed": 7, "resumes": 0, "itr": 12, "policy_version": 40}


def resumed(kind, state=STATE, **arguments):
    sampler = small(kind, **{"seed": None, **arguments})
    sampler.load_state_dict(state)
    return sampler


@pytest.mark.parametrize("kind", ["serial", "cpu", "gpu", "in-process"])
async def test_a_sampler_goes_on_with_other_episodes(kind):
    async with resumed(kind, eval_n_envs=2, eval_max_steps=20) as sampler:
        assert sampler.seed == 7
        assert sampler.policy_version == 40
        infos = await sampler.evaluate_agent()
        samples = await sampler.obtain_samples()
        assert (samples.itr, samples.policy_version) == (12, 40)
        expected = [environment_seed(7, b, resumes=1) for b in range(4)]
        assert samples.env.observation[0, :, 0].tolist() == expected
        assert not set(expected) & {environment_seed(7, b, resumes=r) for b in range(4) for r in (0, 2)}
        assert len(infos) > 0
        assert sampler.publish() == 41
        state = sampler.state_dict()
    assert state == {"seed": 7, "resumes": 1, "itr": 13, "policy_version": 41}
    assert sampler.state_dict() == state  # also when it is closed
    assert json.loads(json.dumps(state)) == state


async def test_every_kind_resumes_with_the_same_batches():
    async with resumed("serial") as sampler, resumed("alternating") as other:
        for _ in range(3):
            assert_same(await sampler.obtain_samples(), await other.obtain_samples())


async def test_noise_is_other_noise_and_that_of_the_same_resumption_the_same():
    actions = []
    for state in (STATE, STATE, {**STATE, "resumes": 1}):
        async with resumed("serial", state, agent=NoisyAgent(), max_decorrelation_steps=5) as sampler:
            actions.append((await sampler.obtain_samples()).agent.action.clone())
    assert torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[0], actions[2])


class ScheduledAgent(LookingAgent):
    """Tells the numbers that a schedule would be computed from."""

    itr = None

    def sample_mode(self, itr):
        super().sample_mode(itr)
        self.itr = itr

    def eval_mode(self, itr):
        super().eval_mode(itr)
        self.itr = itr
        assert itr in (11, 12)  # the last that was asked for

    def step(self, inputs, state):
        step = super().step(inputs, state)
        return step._replace(agent_info=torch.full_like(step.action, self.itr))


@pytest.mark.parametrize("overlap", [True, False])
async def test_schedules_go_on(overlap):
    arguments = {"agent": ScheduledAgent(), "eval_n_envs": 1, "eval_max_steps": 5, "overlap": overlap}
    async with resumed("cpu", **arguments) as sampler:
        await sampler.evaluate_agent()
        for itr in (12, 13):
            assert (await sampler.obtain_samples()).agent.agent_info.unique().tolist() == [itr]
            if itr == 12:
                await sampler.evaluate_agent()


async def test_a_batch_that_nobody_got_is_not_counted():
    async with small("serial") as sampler:
        await sampler.obtain_samples()
        task = asyncio.create_task(sampler.obtain_samples())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sampler.state_dict()["itr"] == 1
        assert (await sampler.obtain_samples()).itr == 1


async def test_what_is_no_state_is_refused():
    for state in ({}, {**STATE, "itr": -1}, {**STATE, "itr": "2"}, [], {key: STATE[key] for key in ("seed", "itr")}):
        with pytest.raises(ConfigError, match="state"):
            resumed("serial", state)
    with pytest.raises(ConfigError, match="seed=8 is not that of the state, 7"):
        resumed("serial", seed=8)
    resumed("serial", seed=7)
    async with small("serial") as sampler:
        with pytest.raises(SamplerError, match="before the start"):
            sampler.load_state_dict(STATE)


def test_the_state_of_a_sampler_that_did_not_start_is_that_of_its_beginning():
    sampler = AsyncSerialSampler(CountingEnv, agent=LookingAgent(), batch_T=2, batch_B=2, seed=3)
    assert sampler.state_dict() == {"seed": 3, "resumes": 0, "itr": 0, "policy_version": 0}
    sampler = resumed("serial")
    assert sampler.state_dict() == {**STATE, "resumes": 1}
    sampler.load_state_dict({**STATE, "seed": 9})
    assert sampler.seed == 9


PROGRAM = """
    import asyncio, os, pathlib, torch
    from aiosampler import AsyncCpuSampler
    from tests.support.agents import LookingAgent
    from tests.support.worlds import CountingEnv

    async def main(path=pathlib.Path("checkpoint.pt")):
        arguments = dict(agent=LookingAgent(), batch_T=5, batch_B=4, n_workers=2, seed=3, start_method="fork")
        sampler = AsyncCpuSampler(CountingEnv, **arguments)
        if path.exists():
            sampler.load_state_dict(torch.load(path, weights_only=True))
        async with sampler:
            async for samples in sampler:
                seen = samples.env.observation[..., :2].flatten(0, 1).unique(dim=0).tolist()
                sampler.publish()
                torch.save(sampler.state_dict(), "new")
                os.replace("new", path)
                print(samples.itr, samples.policy_version, seen, sep=";", flush=True)

    asyncio.run(main())
"""


def started(program, directory):
    """A process that runs a program, and what it prints; it is forked, and so need not import torch first."""
    read, write = os.pipe()
    run = os.fork()
    if run == 0:
        try:
            os.chdir(directory)
            os.dup2(write, 1)
            sys.stdout = os.fdopen(1, "w")
            exec(textwrap.dedent(program), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    return run, open(read)


def test_a_run_that_is_killed_in_the_middle_goes_on(tmp_path):
    runs = []
    for _ in range(3):
        run, output = started(PROGRAM, tmp_path)
        with output:
            lines = [output.readline() for _ in range(5)]
            os.kill(run, signal.SIGKILL)
            os.waitpid(run, 0)
            lines += output.read().splitlines()
        runs.append([line.strip().split(";") for line in lines if line.count(";") == 2])
    numbers = [int(itr) for run in runs for itr, _, _ in run]
    assert numbers == sorted(set(numbers))
    assert len(numbers) - 1 <= numbers[-1] <= len(numbers) + 1  # killed between saving and printing
    versions = [int(version) for run in runs for _, version, _ in run]
    assert versions == sorted(versions)
    assert versions[-1] > 8
    episodes = [{tuple(episode) for *_, seen in run for episode in json.loads(seen)} for run in runs]
    assert len(set.union(*episodes)) == sum(map(len, episodes))
