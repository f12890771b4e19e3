"""Signals that are counted, in one process and between two."""

import multiprocessing
import threading

from aiosampler.signals.counter import Signal


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
