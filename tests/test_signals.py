import asyncio
import contextlib
import multiprocessing
import os
import signal as os_signal
import threading
from contextvars import ContextVar

import numpy as np
import pytest

from aiosampler.signals.counter import Signal
from aiosampler.signals.rendezvous import ServerSide, WorkerSide, rendezvous_specs
from aiosampler.signals.waiter import Waiter


@pytest.fixture(params=["eventfd", "pipe"])
def signal(request, monkeypatch):
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    signal = Signal()
    yield signal
    signal.close()
    signal.close()


def test_posts_are_counted_and_taken_at_once(signal):
    assert signal.take() == 0
    for _ in range(3):
        signal.post()
    assert signal.take() == 3
    assert signal.take() == 0


def test_waiting_blocks_until_a_post_or_the_timeout(signal):
    assert signal.wait(0.01) == 0
    thread = threading.Thread(target=signal.post)
    thread.start()
    assert signal.wait() == 1
    thread.join()


def test_posting_never_blocks(signal):
    for _ in range(100_000):
        signal.post()
    assert signal.take() > 0


def _echo(request, answer):
    for _ in range(100):
        request.wait()
        answer.post()


def test_a_signal_travels_to_a_child_that_is_started(signal):
    answer = Signal()
    child = multiprocessing.get_context("spawn").Process(target=_echo, args=(signal, answer))
    child.start()
    for _ in range(100):
        signal.post()
        assert answer.wait(10) == 1
    child.join()
    child.close()
    answer.close()


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


@pytest.fixture(params=[asyncio.Task, asyncio.tasks._PyTask], ids=["Task", "PyTask"])
def start(request):
    return lambda coroutine: request.param(coroutine, loop=asyncio.get_running_loop())


async def test_a_waiter_has_its_task_go_on_within_the_callback_that_resumes_it(start):
    waiter, seen, variable = Waiter(), [], ContextVar("variable")

    async def wait():
        variable.set("mine")
        for i in range(3):
            await waiter
            seen.append((i, variable.get(), asyncio.current_task()))

    def resume():
        before = len(seen)
        waiter.resume_now()
        assert len(seen) == before + 1

    async with asyncio.timeout(10):
        task = start(wait())
        await asyncio.sleep(0)
        for i in range(3):
            assert waiter.waiting
            assert len(seen) == i
            if i == 1:
                waiter.resume_soon()
                assert not waiter.waiting
            else:
                asyncio.get_running_loop().call_soon(resume)
            await asyncio.sleep(0)
        await task
    assert seen == [(i, "mine", task) for i in range(3)]
    assert not waiter.waiting


@pytest.mark.parametrize("resumed_before", [False, True])
async def test_waiting_can_be_cancelled_and_waited_for_anew(resumed_before, start):
    waiter = Waiter()

    async def wait():
        await waiter

    for _ in range(2):
        task = start(wait())
        await asyncio.sleep(0)
        if resumed_before:
            waiter.resume_soon()
        task.cancel("why")
        assert not waiter.waiting
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        assert task.cancelled()
    task = start(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiter.resume_now)
    await task


async def test_a_time_limit_ends_waiting():
    waiter = Waiter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiter
    assert not waiter.waiting


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
