"""Letters between two processes, driven in one."""

import os
import select

import numpy as np
import pytest

from aiosampler.signals.counter import Signal
from aiosampler.signals.mailbox import Mailbox, mailbox_specs


@pytest.fixture
def ends():
    signals = Signal(), Signal()
    ends = Mailbox(0, signals), Mailbox(1, signals)
    yield ends
    for end in ends:
        end.close()
        end.close()


@pytest.fixture
def cells():
    spec = mailbox_specs()
    return np.zeros(spec.shape, spec.dtype)


def readable(end):
    return bool(select.select([end], [], [], 0)[0])


def test_a_letter_is_taken_once_and_answered_before_the_next(ends, cells):
    user, sampler = ends
    for end in ends:
        assert end.take() is None
        assert not end.connected
        end.connect(cells)
        assert end.connected
        assert end.take() is None
    for i in range(3):
        user.send(i, -1)
        assert readable(sampler)
        assert not readable(user)
        assert sampler.take()[:2] == [i, -1]
        assert sampler.take() is None
        sampler.clear()
        assert not readable(sampler)
        sampler.send(i, 2**62, 0, 0, 0, 0, 7)
        assert user.take() == [i, 2**62, 0, 0, 0, 0, 7]
        assert user.take() is None
        user.clear()


def test_a_mailbox_ends_with_its_descriptors_also_without_close(cells):
    signals = Signal(), Signal()
    descriptors = [signal.fileno() for signal in signals]
    box = Mailbox(0, signals)
    box.connect(cells)
    del box
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
