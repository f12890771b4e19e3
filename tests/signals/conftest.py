"""Signals of each kind that the system has."""

import os

import pytest

from aiosampler.signals.counter import Signal


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
