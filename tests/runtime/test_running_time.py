"""Deadlines of processes that are suspended, and of those that are but busy."""

from typing import NamedTuple

import pytest

from aiosampler.runtime import running_time
from aiosampler.runtime.running_time import RunningTime
from aiosampler.runtime.watch import Watch


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(running_time.time, "monotonic", lambda: self.now)


class Progress(NamedTuple):
    n: int
    waiting: bool = False

    @property
    def facts(self):
        return {}


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_time_in_which_a_process_was_stopped_does_not_count(clock):
    running = RunningTime(4.0)
    for pause in (0.5, 0.5, 60.0, 0.5):
        clock.now += pause
        running.seconds()
    assert running.seconds() == pytest.approx(1.5)


def test_time_in_which_a_process_is_busy_counts_a_little(clock):
    running = RunningTime(4.0)
    for _ in range(21):
        clock.now += 60.0
        seconds = running.seconds()
    assert seconds == pytest.approx(20 * running.interval)


def test_a_process_is_stuck_when_it_made_no_progress_while_it_was_watched(clock):
    watch = Watch(2.0, {0: lambda: Progress(1), 1: lambda: Progress(1, waiting=True)})

    def looks(n, pause):
        found = []
        for _ in range(n):
            clock.now += pause
            found += watch.stuck()
        return found

    assert looks(3, 0.5) == []
    assert looks(1, 60.0) == []
    assert looks(1, 0.5) == [(0, Progress(1))]
