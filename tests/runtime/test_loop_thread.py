"""Waiting for what runs in an event loop in a thread of its own, by several threads at the same time."""

import asyncio
import threading

import pytest

from aiosampler.runtime.loop_thread import LoopThread


class Late(Exception):
    pass


@pytest.fixture
def loop():
    made = LoopThread(limit=0.04)  # looks every 10 ms
    yield made
    made.close()


def test_a_wait_ends_when_all_is_done_and_looks_meanwhile(loop):
    looks, ends = [], []

    def look(waited, held):
        looks.append((waited, threading.current_thread()))
        if len(looks) % 2 == 0:
            loop.loop.call_soon_threadsafe(ends.pop())

    for n in (1, 2):
        loop.wait(ends.append, look)
        assert len(looks) == 2 * n
        assert 0 <= looks[-2][0] <= looks[-1][0] < 60
    assert {thread for _, thread in looks} == {loop._watcher}


def test_what_a_look_raises_ends_its_own_wait_alone(loop):
    outcomes = {}
    first_is_late = threading.Event()

    def look_first(waited, held):
        raise Late(waited)

    def look_second(waited, held):
        pass

    def wait(name, begin, look):
        try:
            loop.wait(begin, look)
            outcomes[name] = "done"
        except Late as exc:
            outcomes[name] = type(exc)
            first_is_late.set()

    def never(end):
        pass

    def after_the_first(end):
        async def follow():
            await asyncio.to_thread(first_is_late.wait, 30)
            end()

        following.append(asyncio.ensure_future(follow()))

    following = []
    threads = [
        threading.Thread(target=wait, args=("first", never, look_first)),
        threading.Thread(target=wait, args=("second", after_the_first, look_second)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes == {"first": Late, "second": "done"}


def test_an_end_after_the_wait_was_given_up_is_harmless(loop):
    ends = []

    def look(waited, held):
        raise Late

    with pytest.raises(Late):
        loop.wait(ends.append, look)
    loop.wait(lambda end: (ends[0](), ends[0](), end()), lambda waited, held: None)


def test_a_loop_that_runs_no_callback_is_told_of(loop):
    release = threading.Event()

    def begin(end):
        release.wait(30)
        end()

    def look(waited, held):
        if held > 0.03:
            release.set()

    loop.wait(begin, look)
    assert release.is_set()


def test_the_watcher_goes_back_to_rest_after_a_wait_that_was_over_before_it_woke(loop):
    cleared, clear = threading.Event(), loop._change.clear
    loop._change.clear = lambda: (clear(), cleared.set())
    loop._change.set()  # which is what such a wait leaves behind
    assert cleared.wait(10), "it goes round and round"


def exits():
    raise SystemExit(4)


async def exits_in_a_task():
    exits()


@pytest.mark.parametrize("how", ["callback", "task", "stop"])
def test_what_would_end_the_loop_fails_the_waits_and_the_loop_goes_on(loop, how):
    tasks = []

    def begin(end):
        if how == "task":
            tasks.append(asyncio.ensure_future(exits_in_a_task()))
        else:
            loop.loop.call_soon(exits if how == "callback" else loop.loop.stop)

    words = "has stopped the event loop" if how == "stop" else "SystemExit: 4"
    with pytest.raises(RuntimeError, match=words) as caught:
        loop.wait(begin, lambda waited, held: None)
    assert caught.value is loop.failure
    loop.wait(lambda end: end(), lambda waited, held: None)  # such as one for closing


def test_the_watcher_ends_with_the_loop():
    made = LoopThread()
    made.wait(lambda end: end(), lambda waited, held: None)
    made.close()
    made._watcher.join(30)
    assert not made._watcher.is_alive()
    assert made.loop.is_closed()
