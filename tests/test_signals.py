import asyncio
import multiprocessing
import os
import threading

import numpy as np
import pytest

from aiosampler.signals.counter import Signal
from aiosampler.signals.meeting import FOR_GOOD, Attendance, Gathering


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


@pytest.fixture
def group(signal):
    cells, leave = np.zeros(3, np.int64), np.zeros(3, np.int64)
    released = [Signal() for _ in range(3)]
    members = [Attendance(cells, i, leave[i : i + 1], signal, released[i]) for i in range(3)]
    yield cells, released, members
    for one in released:
        one.close()


async def test_the_last_to_arrive_rings_and_all_go_on_when_they_are_released(signal, group):
    cells, released, members = group
    gathering = Gathering(cells, signal)
    rounds = []

    def attend(i):
        for _ in range(200):
            assert members[i].meet()
        assert members[i].meet(for_good=True)

    threads = [threading.Thread(target=attend, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(201):
        async with asyncio.timeout(10):
            await gathering.all_arrived()
        rounds.append(cells.tolist())
        for one in released:
            one.post()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert rounds == [[t + 1] * 3 for t in range(200)] + [[FOR_GOOD] * 3]
    assert signal.take() <= 1  # what rang twice in the last round
    gathering.close()


async def test_nobody_waits_for_members_that_come_no_more(signal, group):
    cells, released, members = group
    gathering = Gathering(cells, signal)
    cells[1] = FOR_GOOD
    waiting = asyncio.create_task(gathering.all_arrived())
    released[0].post()
    assert members[0].meet()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    cells[2] = FOR_GOOD  # it was lost
    gathering.check()
    await waiting
    gathering.close()


async def test_a_wait_that_is_cancelled_leaves_the_gathering_usable(signal, group):
    cells, released, members = group
    gathering = Gathering(cells, signal)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await gathering.all_arrived()
    cells[:] = 0
    gathering.begin()
    for one, member in zip(released, members, strict=True):
        one.post()
        assert member.meet()
    await gathering.all_arrived()
    gathering.close()


def test_a_member_that_is_told_to_leave_leaves(group):
    _, _, members = group
    thread = threading.Thread(target=members[0].abort)
    thread.start()
    assert not members[0].meet()
    thread.join()
