"""Arrivals at a server: who posts to it, and that nobody waits for a post that does not come."""

import asyncio

import numpy as np
import pytest

from aiosampler.signals import arrivals
from aiosampler.signals.arrivals import Kind, ServerArrivals, WorkerArrivals
from aiosampler.signals.counter import Signal
from aiosampler.signals.rendezvous import ARRIVED, ASLEEP, FOR_GOOD, LEAVE, RELEASED, rendezvous_specs

W = 4
SERVER_ASLEEP = LEAVE + 3  # the cell, see `aiosampler.signals.arrivals`


class CountedSignal(Signal):
    posts = 0

    def post(self):
        self.posts += 1
        super().post()


@pytest.fixture
def meeting():
    """The cells of W workers, whose arrivals are answered at once, and the signal to the server."""
    layout = rendezvous_specs(W)
    cells = np.zeros(layout.shape, layout.dtype)
    cells[:, RELEASED] = FOR_GOOD
    return cells, CountedSignal()


@pytest.mark.parametrize("spin", [False, True])
async def test_only_the_first_who_arrives_while_the_server_sleeps_posts(meeting, spin):
    cells, obs_ready = meeting
    signals = [Signal() for _ in range(W)]
    server = ServerArrivals(cells, obs_ready, signals)
    workers = [WorkerArrivals(cells, i, obs_ready, signals[i], spin=spin) for i in range(W)]
    assert all(worker.arrive(0, 3, Kind.ACT) for worker in workers)
    assert obs_ready.posts == 0
    for n in (1, 2):
        waiting = asyncio.ensure_future(server.wait())
        await asyncio.sleep(0)
        assert all(worker.arrive(0, 3, Kind.ACT) for worker in workers)
        assert obs_ready.posts == n
        await waiting
    assert server.wake_ups == 2
    server.close()


@pytest.mark.parametrize("short", [True, False])
async def test_a_server_that_has_slept_shortly_lets_others_arrive_before_it_sleeps_again(meeting, short, monkeypatch):
    cells, obs_ready = meeting
    cells[:, RELEASED] = 0
    signals = [Signal() for _ in range(2)]
    server = ServerArrivals(cells[:2], obs_ready, signals)

    def arrive(member):
        cells[member, ARRIVED] += 1
        if cells[0, SERVER_ASLEEP]:
            obs_ready.post()

    monkeypatch.setattr(arrivals, "_YIELD_NS", 10**12 if short else 0)
    monkeypatch.setattr(arrivals.os, "sched_yield", lambda: arrive(1))
    for member in (0, 1):
        if not short or member == 0:
            asyncio.get_running_loop().call_soon(arrive, member)
        await server.wait()
        assert server.ready().tolist() == [member]
        server.release(server.ready())
    assert server.wake_ups == obs_ready.posts == (1 if short else 2)
    server.close()


async def test_another_posts_where_one_was_stopped_before_its_post(meeting):
    class Stopped(Exception):
        pass

    class Stopping(Signal):
        def post(self):
            raise Stopped

    cells, obs_ready = meeting
    signals = [Signal() for _ in range(W)]
    server = ServerArrivals(cells, obs_ready, signals)
    stopping = Stopping()
    stopped = WorkerArrivals(cells, 0, stopping, signals[0], spin=False)
    other = WorkerArrivals(cells, 1, obs_ready, signals[1], spin=False)
    waiting = asyncio.ensure_future(server.wait())
    await asyncio.sleep(0)
    with pytest.raises(Stopped):
        stopped.arrive(0, 3, Kind.ACT)
    assert other.arrive(0, 3, Kind.ACT)
    assert obs_ready.posts == 1
    await waiting
    server.close()
    stopping.close()


async def test_the_server_looks_again_when_a_worker_is_lost_that_may_not_have_posted(meeting):
    cells, obs_ready = meeting
    signals = [Signal() for _ in range(W)]
    server = ServerArrivals(cells, obs_ready, signals)
    waiting = asyncio.ensure_future(server.wait())
    await asyncio.sleep(0)
    server.lose([2])
    await waiting
    server.close()


def test_a_worker_that_never_spins_is_posted_to_at_each_answer(meeting):
    cells, obs_ready = meeting
    for spin in (False, True):
        act_ready = Signal()
        WorkerArrivals(cells, 1, obs_ready, act_ready, spin=spin)
        assert cells[1, ASLEEP] == (not spin)
        act_ready.close()
    obs_ready.close()
