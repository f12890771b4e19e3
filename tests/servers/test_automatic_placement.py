"""Where two groups run if the user does not say it."""

import os

import pytest

from aiosampler import Affinity, AsyncAlternatingSampler, usable_cpus
from aiosampler.servers import automatic_placement as module
from aiosampler.servers.automatic_placement import automatic_placement
from tests.support.agents import LookingAgent
from tests.support.processes import workers
from tests.support.samplers import assert_same, small

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


class Claim:
    released = False

    def release(self):
        self.released = True


@pytest.fixture
def machine(monkeypatch):
    """A machine of four CPUs, which nobody else uses."""

    def make(count=4, claim=Claim):
        for name in ("aiosampler.affinity.usable_cpus", "aiosampler.servers.server_cpus.usable_cpus"):
            monkeypatch.setattr(name, lambda: (0, 1, 2, 3))
        monkeypatch.setattr(module, "usable_cpus", lambda: (0, 1, 2, 3))
        monkeypatch.setattr(module, "usable_cpu_count", lambda: count)
        monkeypatch.setattr(module, "claim_cpus", lambda cpus: claim())

    return make


@pytest.mark.parametrize(
    ("affinity", "n_workers", "n_groups", "placed"),
    [
        (Affinity(), 4, 2, True),
        (Affinity(), 8, 2, True),
        (Affinity(), 2, 2, False),  # everybody has a CPU
        (Affinity(), 10, 2, False),  # they mostly wait
        (Affinity(), 4, 1, False),
        (Affinity(torch_threads=2), 4, 2, False),
    ],
)
def test_groups_are_placed_where_the_user_did_not_and_cpus_are_few(machine, affinity, n_workers, n_groups, placed):
    machine()
    placement = automatic_placement(affinity, n_workers, n_groups)
    assert (placement is not None) == placed


def test_nothing_is_placed_where_cpus_are_shared_with_others(machine):
    machine(claim=lambda: None)
    assert automatic_placement(Affinity(), 4, 2) is None
    machine(count=2)  # a quota
    assert automatic_placement(Affinity(), 4, 2) is None


@pytest.fixture
def moved(monkeypatch):
    """CPUs and policies of processes, by id."""
    cpus, policies = {}, {}
    monkeypatch.setattr(os, "sched_setaffinity", cpus.__setitem__)
    monkeypatch.setattr(module, "give_way", lambda pid: policies.update({pid: "gives way"}))
    monkeypatch.setattr(module, "take_turns", lambda pid: policies.update({pid: "usual"}))
    return cpus, policies


FREE = [(0, 1, 2, 3)] * 4
TOGETHER, APART = [(0,), (1,), (0,), (1,)], [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [((1.0, 0.8, 0.9), TOGETHER), ((1.0, 0.9, 0.7), APART), ((1.0, 0.99, 1.1), FREE), ((1.0, 2.0, 3.0), FREE)],
    ids=["together", "apart", "no better", "worse"],
)
def test_each_placement_is_tried_out_and_the_fastest_is_kept(machine, moved, seconds, best):
    claim = Claim()
    machine(claim=lambda: claim)
    placement = automatic_placement(Affinity(), 4, 2)
    pids, (cpus, policies) = [11, 12, 13, 14], moved
    for takes, places in zip(seconds, (FREE, TOGETHER, APART), strict=True):
        for first in (True, False, False):
            placement.place(pids)
            assert [*cpus.values()] == ([] if places == FREE else places)
            policy = {"gives way"} if places == APART else {"usual"}
            assert {*policies.values()} == (set() if places == FREE else policy)
            assert (placement.server_cpus is not None) == (places == APART)
            changed = placement.batch(takes * (100 if first else 1) * 64, 64)  # the first is slow, and does not count
    assert changed == (best != APART)
    assert claim.released == (best == FREE)
    for _ in range(10):
        placement.place(pids)
        assert [*cpus.values()] == best
        assert not placement.batch(min(seconds) * 64, 64)
    placement.place([11, 99, 13, 0])  # one took the place of another, and one is gone
    assert cpus[99] == best[1]
    assert 0 not in cpus


def test_a_placement_that_others_disturb_later_is_given_up_for_good(machine, moved):
    claim = Claim()
    machine(claim=lambda: claim)
    placement, pids = automatic_placement(Affinity(), 4, 2), [11, 12, 13, 14]
    for takes in (1.0, 0.8, 0.9):
        for _ in range(3):
            placement.batch(takes * 64, 64)
    placement.place(pids)
    assert [*moved[0].values()] == TOGETHER
    assert [placement.batch(takes * 64, 64) for takes in [0.8] * 8 + [1.5] * 4] == [False] * 11 + [True]
    placement.place(pids)
    assert [*moved[0].values()] == FREE
    assert claim.released
    assert not any(placement.batch(1000.0, 64) for _ in range(20))


def test_short_batches_are_tried_for_longer_and_empty_ones_not_counted(machine, moved):
    machine()
    placement = automatic_placement(Affinity(), 4, 2)
    assert not any(placement.batch(0.01, steps) for steps in (0, 0, 0, 40, 40, 40))
    assert placement.batch(0.01, 40)
    assert not any(placement.batch(0.4, 1) for _ in range(2))
    assert placement.batch(0.4, 1)  # steps are slow: it has been tried for a second


@pytest.mark.skipif(len(usable_cpus()) < 2, reason="needs two CPUs to put the groups on")
async def test_batches_are_the_same_wherever_workers_are_placed():
    """Through all placements, a worker that is lost meanwhile among them."""
    n = 2 * len(usable_cpus())
    arguments = {"agent": LookingAgent(), "n_workers": n, "batch_B": n, "batch_T": 40}
    left = {"affinity": Affinity(cpus=usable_cpus())}
    async with (
        small(AsyncAlternatingSampler, max_worker_restarts=1, **arguments) as sampler,
        small(AsyncAlternatingSampler, **left, **arguments) as expected,
    ):
        for _ in range(12):
            assert_same(await sampler.obtain_samples(), await expected.obtain_samples())
        assert [os.sched_getaffinity(pid) for pid in expected.statistics().worker_pids] == [{*usable_cpus()}] * n
        workers(sampler)[0].kill()
        while not (await sampler.obtain_samples()).stats.restarts:
            pass
        assert (await sampler.obtain_samples()).valid.all()
    assert os.sched_getaffinity(0) == {*usable_cpus()}
