"""A rendezvous of workers and their server, driven in one process."""

import asyncio
import contextlib
import signal as os_signal
import threading

import numpy as np
import pytest

from aiosampler.signals.counter import Signal
from aiosampler.signals.rendezvous import ServerSide, WorkerSide, rendezvous_specs


@pytest.fixture(params=[False, True], ids=["sleep", "spin"])
def group(request, signal):
    spec = rendezvous_specs(3)
    cells = np.zeros(spec.shape, spec.dtype)
    act_ready = [Signal() for _ in range(3)]
    members = [WorkerSide(cells, i, signal, act_ready[i], spin=request.param) for i in range(3)]
    yield cells, act_ready, members, request.param
    for one in act_ready:
        one.close()


async def test_the_last_to_arrive_rings_and_all_go_on_when_they_are_released(signal, group):
    cells, act_ready, members, spin = group
    server = ServerSide(cells, signal, act_ready, spin=spin)
    server.expect([0, 1, 2])
    met = [0, 0, 0]

    def attend(i):
        for t in range(200):
            assert members[i].meet()
            met[i] = t + 1
        assert members[i].meet(for_good=True)

    threads = [threading.Thread(target=attend, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for t in range(201):
        async with asyncio.timeout(10):
            await server.all_arrived()
        assert met == [t] * 3  # nobody goes on before it is released
        assert [server.comes(i) for i in range(3)] == [t < 200] * 3
        server.release([0, 1, 2])
    for thread in threads:
        await asyncio.to_thread(thread.join)
    server.close()


async def test_nobody_waits_for_members_that_come_no_more(signal, group):
    cells, act_ready, members, spin = group
    server = ServerSide(cells, signal, act_ready, spin=spin)
    server.expect([0, 2])
    waiting = asyncio.create_task(server.all_arrived())
    thread = threading.Thread(target=members[0].meet)
    thread.start()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    server.lose(2)
    await waiting
    server.release([0])
    await asyncio.to_thread(thread.join)
    server.close()


async def test_a_rendezvous_that_is_given_up_leaves_the_next_one_in_order(signal, group):
    cells, act_ready, members, spin = group
    server = ServerSide(cells, signal, act_ready, spin=spin)
    for _ in range(20):
        server.expect([0, 1, 2])
        for member in members:
            member.begin()
        left = []

        def attend(i, left=left):
            while members[i].meet():
                pass
            left.append(i)

        threads = [threading.Thread(target=attend, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            await server.all_arrived()
            server.release([0, 1, 2])
        with contextlib.suppress(TimeoutError):  # or all had arrived already
            async with asyncio.timeout(0):
                await server.all_arrived()
        server.abort()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(left) == [0, 1, 2]
    server.close()


def test_a_member_leaves_when_it_is_told_to_by_another_thread(group):
    _, _, members, _ = group
    assert not members[0].leave[0]
    thread = threading.Thread(target=members[0].abort)
    thread.start()
    assert not members[0].meet()
    assert members[0].leave[0]
    thread.join()


def test_a_signal_handler_of_an_environment_disturbs_no_rendezvous(signal):
    spec = rendezvous_specs(1)
    cells = np.zeros(spec.shape, spec.dtype)
    act_ready, handled = Signal(), []
    member = WorkerSide(cells, 0, signal, act_ready, spin=False)
    before = os_signal.signal(os_signal.SIGALRM, lambda *_: handled.append(cells[0].tolist()))
    try:
        os_signal.setitimer(os_signal.ITIMER_REAL, 0.02)
        releasing = threading.Timer(0.1, member.abort)
        releasing.start()
        assert not member.meet()  # released by the timer alone
    finally:
        os_signal.signal(os_signal.SIGALRM, before)
    releasing.join()
    assert len(handled) == 1
    act_ready.close()
