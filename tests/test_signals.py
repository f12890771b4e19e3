import asyncio
import multiprocessing
import os
import threading

import pytest

from aiosampler.signals.counter import Arrivals, Signal


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


async def test_arrivals_wake_once_at_the_last_post(signal):
    arrivals = Arrivals(signal, asyncio.get_running_loop())
    signal.post()
    signal.post()
    await arrivals.wait(2)
    waiting = asyncio.create_task(arrivals.wait(3))
    for _ in range(2):
        signal.post()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    signal.post()
    await waiting
    waiting = asyncio.create_task(arrivals.wait(1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    arrivals.close()


async def test_arrivals_at_what_was_given_up_are_forgotten(signal):
    arrivals = Arrivals(signal, asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await arrivals.wait(3)
    signal.post()
    signal.post()
    arrivals.forget()
    signal.post()
    await arrivals.wait(1)
    arrivals.close()
