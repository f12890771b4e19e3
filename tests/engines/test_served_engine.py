"""What an action server adds: workers without torch, an agent that fails or sticks in one place, devices, groups."""

import asyncio
import functools
import threading

import pytest
import torch

from aiosampler import AgentError, DqnAgent, RandomAgent, WorkerTimeout
from tests.support.agents import AgeAgent
from tests.support.processes import workers
from tests.support.samplers import SERVED, assert_same, small
from tests.support.torchless import cartpole
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture(params=SERVED)
def served(request):
    return functools.partial(small, request.param)


@pytest.mark.same_code  # what workers import that are not at their own pace
async def test_spawned_workers_import_no_torch_and_stay_small(served):
    arguments = {"agent": RandomAgent(), "env_info_keys": ("torch",), "start_method": "spawn"}
    async with served(cartpole, **arguments) as sampler:
        samples = await sampler.obtain_samples()
        assert (samples.env.env_info["torch"] == 0).all()
        for worker in workers(sampler):
            assert worker.memory_info().rss < 80 * 2**20


async def test_workers_that_a_server_forks_have_torch_in_memory_that_they_share():
    async with small("gpu", cartpole, agent=RandomAgent(), start_method="forkserver") as sampler:
        assert await sampler.get_attr("has_torch") == [True] * 4
        for worker in workers(sampler):
            memory = worker.memory_full_info()
            assert memory.rss > 100 * 2**20
            assert memory.uss < 30 * 2**20  # what it has for itself


class Failing(RandomAgent):
    """Does something in its n-th step as a sampler's agent."""

    def __init__(self, what, n=13):
        self.what, self.left = what, n

    def step(self, inputs, state):
        self.left -= self.mode != "train"
        if self.left == 0:
            match self.what:
                case "raise":
                    raise torch.OutOfMemoryError("the device is full")
                case "shape":
                    return super().step(inputs, state)._replace(action=torch.zeros(7, dtype=torch.int64))
                case "stick":
                    threading.Event().wait()
        return super().step(inputs, state)


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("raise", AgentError, r"OutOfMemoryError in step\(\): the device is full"),
        ("shape", AgentError, r"action with the shape \[7\], expected"),
        ("stick", WorkerTimeout, r"is stuck in the agent for more than step_timeout=0\.4 s"),
    ],
)
async def test_an_agent_that_fails_leaves_nobody_waiting(served, what, error, words):
    with pytest.raises(error, match=words) as caught:
        async with asyncio.timeout(20):
            async with served(agent=Failing(what), step_timeout=0.4, eval_n_envs=2, eval_max_steps=20) as sampler:
                while True:
                    await sampler.obtain_samples()
                    await sampler.evaluate_agent()
    assert caught.value.process in ("sampler", "server-0", "server-1")
    if error is AgentError:
        assert "Traceback" in "".join(caught.value.__notes__)


@pytest.mark.each_kind
async def test_an_evaluation_that_is_given_up_leaves_the_workers_in_step(served):
    arguments = {"agent": AgeAgent(), "eval_n_envs": 3, "eval_max_steps": 10**9}
    async with served(**arguments) as sampler, served(**arguments) as undisturbed:
        for wait in (0.0, 0.01, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(wait):
                    await sampler.evaluate_agent()
            for _ in range(2):
                assert_same(await sampler.obtain_samples(), await undisturbed.obtain_samples())


@pytest.mark.each_kind
async def test_environments_that_wait_in_one_group_do_not_hold_up_the_other(served):
    """Episodes of one step: all environments of all groups wait for the rest of the batch."""
    async with served(
        functools.partial(CountingEnv, 1, 1), mid_batch_reset=False, batch_T=50, bootstrap_value=True
    ) as sampler:
        for _ in range(3):
            samples = await sampler.obtain_samples()
            assert samples.valid.sum() == samples.valid[0].sum() == 4
            assert len(samples.traj_infos) == 4
            assert (samples.agent.bootstrap_value == 0).all()


@pytest.mark.each_kind
async def test_each_group_has_the_epsilons_of_its_environments(served):
    agent = DqnAgent(
        lambda observation_space, action_space: _Zeros(int(action_space.n)), eps_init=1.0, eps_final=1.0,
        eps_final_min=1e-9, eps_itr_max=0,
    )  # fmt: skip
    async with served(agent=agent, batch_T=60) as sampler:
        actions = (await sampler.obtain_samples()).agent.action
        explored = (actions != 0).float().mean(0)
        assert explored[0] == 0  # its epsilon is 1e-9
        assert explored[-1] > 0.5


class _Zeros(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n = n
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, observation):
        q = torch.zeros(len(observation), self.n)
        q[:, 0] = 1
        return q
