"""What an action server adds: workers without torch, an agent that fails or sticks in one place, devices, groups."""

import asyncio
import dataclasses
import functools
import os
import threading

import psutil
import pytest
import torch

from aiosampler import (
    Affinity,
    AgentError,
    AsyncAlternatingSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    ConfigError,
    DqnAgent,
    RandomAgent,
    WorkerTimeout,
)
from aiosampler.affinity import make_affinity, usable_cpu_count, usable_cpus
from aiosampler.servers.server_cpus import server_cpus, servers_have_cpus, workers_have_cpus
from tests.conftest import until
from tests.test_parallel_samplers import PARALLEL, workers
from tests.test_sampler import assert_same, small
from tests.torchless import cartpole
from tests.worlds import AgeAgent, CountingEnv, LookingAgent

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")

SERVED = {name: kind for name, kind in PARALLEL.items() if name != "cpu"}


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # both loops are tried for all samplers in test_sampler


@pytest.fixture(params=SERVED)
def served(request):
    kind, arguments = SERVED[request.param]
    return functools.partial(small, kind, n_workers=2, **arguments)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
async def test_workers_import_no_torch_and_stay_small(served, start_method):
    arguments = {"agent": RandomAgent(), "env_info_keys": ("torch",), "start_method": start_method}
    async with served(cartpole, **arguments) as sampler:
        samples = await sampler.obtain_samples()
        assert (samples.env.env_info["torch"] == 0).all()
        for worker in workers(sampler):
            assert worker.memory_info().rss < 80 * 2**20


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


async def test_an_evaluation_that_is_given_up_leaves_the_workers_in_step(served):
    arguments = {"agent": AgeAgent(), "eval_n_envs": 3, "eval_max_steps": 10**9}
    async with served(**arguments) as sampler, served(**arguments) as undisturbed:
        for wait in (0.0, 0.01, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(wait):
                    await sampler.evaluate_agent()
            for _ in range(2):
                assert_same(await sampler.obtain_samples(), await undisturbed.obtain_samples())


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


async def test_two_devices_have_processes_of_their_own():
    async with small(AsyncGpuSampler, n_workers=4, device=["cpu", "cpu"]) as sampler:
        await sampler.obtain_samples()
        servers = psutil.Process(sampler._process.pid).children()
        assert len(servers) == 2
        assert [len(server.children()) for server in servers] == [2, 2]
        servers[0].kill()
        with pytest.raises(Exception, match=r"server-. process ended unexpectedly by SIGKILL"):
            while True:
                await sampler.obtain_samples()
    await until(lambda: not any(server.is_running() for server in servers))


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (AsyncGpuSampler, {"device": "tpu"}, "device must be a torch device such as 'cpu' or 'cuda:0', got 'tpu'"),
        (AsyncGpuSampler, {"device": []}, "got none"),
        (AsyncGpuSampler, {"device": "meta"}, "of a kind that is not supported"),
        (AsyncGpuSampler, {"device": "cuda:77"}, "'cuda:77', but torch finds . CUDA devices"),
        (AsyncGpuSampler, {"device": ["cpu"] * 3, "n_workers": 2}, "n_workers=2 is less than the 3 devices"),
        (AsyncAlternatingSampler, {"n_workers": 3}, "n_workers=3 cannot be two equal groups; 2 or 4 would fit"),
        (AsyncAlternatingSampler, {"batch_B": 5}, "batch_B=5 cannot be two equal groups; 4 or 6 would fit"),
        (AsyncAlternatingSampler, {"n_workers": 1}, "n_workers=1 cannot be two equal groups; 2 would fit"),
        (
            AsyncNoOverlapAlternatingSampler,
            {"batch_B": 8, "n_workers": 6, "device": ["cpu", "cpu"]},
            "n_workers=6 cannot be two equal groups for each of 2 devices; 4 or 8 would fit",
        ),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(kind, arguments, words):
    with pytest.raises(ConfigError, match=words):
        small(kind, **arguments)


def test_an_alternating_sampler_has_two_workers_for_each_cpu_by_default():
    n = usable_cpu_count()
    assert small(AsyncAlternatingSampler, batch_B=8 * n)._n_workers == 2 * n
    assert small(AsyncAlternatingSampler, batch_B=2)._n_workers == 2
    assert small(AsyncAlternatingSampler, batch_B=12, device=["cpu"] * 3)._n_workers % 6 == 0


@pytest.mark.parametrize(
    ("arguments", "servers", "n_workers", "n_groups", "expected"),
    [
        (None, 1, 3, 1, (True, True, False)),
        (None, 1, 4, 1, (True, False, False)),
        (None, 1, 4, 2, (True, True, False)),
        (None, 2, 4, 2, (True, True, False)),
        (None, 1, 8, 2, (False, False, False)),
        ({"n_workers": 3, "n_gpus": 1}, 1, 3, 1, (True, True, False)),  # the server has a CPU of its own
        ({"n_workers": 4, "alternating": True}, 1, 4, 2, (True, True, False)),
        ({"n_workers": 4, "alternating": True, "apart": True}, 1, 4, 2, (True, True, True)),
        ({"n_workers": 2, "alternating": True, "apart": True, "cpus": [0, 1]}, 1, 2, 2, (True, True, False)),
        ({"n_workers": 4, "alternating": True, "apart": True, "torch_threads": 2}, 1, 4, 2, (True, True, False)),
    ],
)
def test_who_has_a_cpu_to_itself_on_a_machine_of_four(monkeypatch, arguments, servers, n_workers, n_groups, expected):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: (0, 1, 2, 3))
    monkeypatch.setattr("aiosampler.servers.server_cpus.usable_cpus", lambda: (0, 1, 2, 3))
    affinity = Affinity() if arguments is None else make_affinity(**arguments)
    half = n_workers // n_groups
    groups = [range(i * half, (i + 1) * half) for i in range(n_groups)]
    assert expected == (
        workers_have_cpus(affinity, n_workers, n_groups),
        servers_have_cpus(affinity, servers, n_workers, n_groups),
        server_cpus(affinity, groups) is not None,
    )


class SeatedAgent(LookingAgent):
    """Tells the CPU it runs on."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        cpus = os.sched_getaffinity(0)
        seat = torch.full_like(step.action, min(cpus) if len(cpus) == 1 else -1)
        return step._replace(agent_info={**step.agent_info, "seat": seat})


@pytest.mark.skipif(len(usable_cpus()) < 2, reason="needs two CPUs to put the groups on")
@pytest.mark.parametrize("kind", [AsyncAlternatingSampler, AsyncNoOverlapAlternatingSampler])
@pytest.mark.parametrize("apart", [False, True])
async def test_actions_are_computed_on_the_cpu_of_the_group_that_waits_if_it_has_one(kind, apart):
    first, second = usable_cpus()[:2]
    affinity = make_affinity(2, alternating=True, apart=apart, cpus=[first, second])
    affinity = dataclasses.replace(affinity, cpus=[first, second])  # however many there are
    async with small(
        kind, agent=SeatedAgent(), n_workers=2, affinity=affinity, eval_n_envs=2, eval_max_steps=20
    ) as sampler:
        for _ in range(2):
            server_cpus = (await sampler.obtain_samples()).agent.agent_info["seat"]
            await sampler.evaluate_agent()
            assert (server_cpus[:, :2] == (first if apart else -1)).all()
            assert (server_cpus[:, 2:] == (second if apart else -1)).all()
        interrupting = {os.sched_getscheduler(worker.pid) == os.SCHED_OTHER for worker in workers(sampler)}
        assert interrupting == {not apart}  # or the server could not make room
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert usable_cpus()[:2] == (first, second)
