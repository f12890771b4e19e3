"""Between which CPUs an action server moves."""

import dataclasses
import os

import pytest
import torch

from aiosampler import Affinity, AsyncAlternatingSampler, AsyncNoOverlapAlternatingSampler
from aiosampler.affinity import make_affinity, usable_cpus
from aiosampler.servers.server_cpus import server_cpus, servers_have_cpus, workers_have_cpus
from tests.support.agents import LookingAgent
from tests.support.processes import workers
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


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
