"""Samplers of one process divide the CPUs among them."""

import asyncio
import os

import pytest

from aiosampler import (
    Affinity,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncSerialSampler,
    ConfigError,
    CpuBudget,
    RandomAgent,
    SamplerClosed,
    usable_cpus,
)
from aiosampler.samplers import cpu_budget
from tests.support.samplers import small


@pytest.fixture
def budget(monkeypatch):
    """The budget of this process has one CPU, whatever machine this is."""
    budget = CpuBudget(usable_cpus()[:1])
    monkeypatch.setattr(cpu_budget, "process_budget", lambda: budget)
    return budget


async def test_a_sampler_keeps_to_its_share_and_the_next_one_starts_when_it_is_closed(budget):
    waiting = small(AsyncSerialSampler, cpus=1)
    async with small(AsyncSerialSampler, cpus=1) as sampler:
        assert os.sched_getaffinity(sampler.statistics().sampler_pid) == {usable_cpus()[0]}
        starting = asyncio.create_task(waiting.async_initialize())
        asked = asyncio.create_task(budget.take(1))
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(budget._waiting) == 2
        await waiting.aclose()  # who is closed while it waits holds up nobody
        with pytest.raises(SamplerClosed):
            await starting
        assert not asked.done()
    assert (await asked).cpus == (usable_cpus()[0],)


async def test_what_nobody_refers_to_any_more_goes_back(budget):
    share = await budget.take(1)
    asked = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    del share
    again = await asked
    again.release()
    again.release()
    async with budget.share(1) as cpus:
        assert cpus == (usable_cpus()[0],)
    assert budget._free == [usable_cpus()[0]]


async def test_a_sampler_that_waits_for_long_says_so(budget, monkeypatch, caplog):
    monkeypatch.setattr(cpu_budget, "LATE_S", 0.001)
    async with budget.share(1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), small(AsyncSerialSampler, cpus=1):
                pass
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        "AsyncSerialSampler waits for 1 of 1 CPUs, which other samplers of this process have"
    ]


def test_one_who_asked_in_an_event_loop_that_has_ended_holds_up_nobody(budget):
    async def have(share=None):
        async with budget.share(1):
            pass

    loop = asyncio.new_event_loop()
    share = loop.run_until_complete(budget.take(1))
    waiting = loop.create_task(budget.take(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    share.release()
    asyncio.run(asyncio.wait_for(have(), 5))
    waiting._log_destroy_pending = False  # it can never end


def test_cpus_that_others_have_claimed_come_last(monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: (0, 1, 2))
    claims = []

    class Claim:
        def __init__(self, cpu):
            claims.append(cpu)
            self.release = lambda: claims.remove(cpu)

    monkeypatch.setattr(cpu_budget, "claim_cpus", lambda cpus: None if cpus == [0] else Claim(cpus[0]))

    async def take():
        first = await (budget := CpuBudget()).take(1)
        assert (first.cpus, claims) == ((1,), [1])
        second = await budget.take(2)
        assert (second.cpus, claims) == ((0, 2), [1, 2])
        first.release()
        second.release()
        assert claims == []

    asyncio.run(take())


def test_there_are_as_many_workers_as_it_has_cpus(monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: tuple(range(8)))
    monkeypatch.setattr("aiosampler.affinity.usable_cpu_count", lambda: 8)
    for kind, n in ((AsyncCpuSampler, 3), (AsyncAlternatingSampler, 6)):
        assert small(kind, cpus=3, batch_B=8).options.n_workers == n


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cpus": 0}, "cpus must be an integer of at least 1, got 0"),
        ({"cpus": 5000}, "cpus=5000 is more than this process may use"),
        ({"cpus": 1, "affinity": Affinity(cpus=usable_cpus()[:1])}, "give one of them"),
        ({"cpus": 1, "in_process": True}, "cpus=1 would be ignored"),
    ],
)
def test_a_share_that_cannot_be_had_is_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        AsyncSerialSampler("CartPole-v1", agent=RandomAgent(), batch_T=1, batch_B=1, **arguments)


async def test_a_budget_gives_each_cpus_of_its_own_in_the_order_in_which_they_ask(monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: (0, 1, 2, 3))
    monkeypatch.setattr("aiosampler.samplers.cpu_budget.claim_cpus", lambda cpus: None)
    budget, had, leave = CpuBudget(), {}, {name: asyncio.Event() for name in "abcd"}

    async def run(name, n):
        async with budget.share(n) as cpus:
            had[name] = cpus
            await leave[name].wait()
            raise ValueError(name)

    runs = {name: asyncio.create_task(run(name, n)) for name, n in zip("abcd", (3, 2, 1, 4), strict=True)}
    for _ in range(5):
        await asyncio.sleep(0)
    assert had == {"a": (0, 1, 2)}  # c would find room, but came after b
    runs["b"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await runs["b"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert had == {"a": (0, 1, 2), "c": (3,)}
    for name in "acd":
        leave[name].set()
    errors = await asyncio.gather(*(runs[name] for name in "acd"), return_exceptions=True)
    assert [str(error) for error in errors] == ["a", "c", "d"]
    assert had["d"] == (0, 1, 2, 3)
    for n in (0, 5, True, 1.5):
        with pytest.raises(ConfigError, match="a share must be 1 to 4 CPUs"):
            async with budget.share(n):
                pass
    with pytest.raises(ConfigError, match="cpus must be some of"):
        CpuBudget([7])
