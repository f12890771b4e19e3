"""What `bench --peers` compares with collects batches of the same shape, or says why it cannot."""

import importlib.util

import pytest

from aiosampler.commands.candidates import Subject
from aiosampler.commands.peers import ways

SUBJECT = Subject("CartPole-v1", "auto", 3, 4)
PACKAGES = {"envpool": "envpool", "sb3": "stable_baselines3", "torchrl": "torchrl"}
SLOW = ("gymnasium async", "sb3 subproc", "torchrl sync", "torchrl async")  # they start processes
NAMES = ["gymnasium sync", "gymnasium async", "envpool sync", "envpool async", "sb3 dummy", "sb3 subproc"]
NAMES += ["torchrl sync", "torchrl async"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_peer_collects(name):
    package = PACKAGES.get(name.split()[0])
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    peer = dict(ways(SUBJECT, 2))[name]()
    try:
        assert peer.rate(0.01) > 0
        if hasattr(peer, "batch"):
            kept, (T, B) = peer._kept, (6, 2) if name == "envpool async" else (3, 4)  # which steps halves
            assert [len(values) for values in kept.values()] == [T] * 5
            assert kept["observation"][0].shape == (B, 4)
            assert (kept["observation"][0] != kept["observation"][1]).any()  # each is its own copy
            assert kept["done"][0].shape == (2, B)
            assert kept["agent_info"][0]["value"].shape == (B,)
        else:
            assert peer._steps in (3 * 4, 3 * 2)  # of all processes, or of one
    finally:
        peer.close()


def test_what_a_peer_does_not_have_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    there = dict(ways(SUBJECT, 2))
    assert list(there) == NAMES
    for name, package in (("envpool sync", "envpool"), ("sb3 dummy", "stable-baselines3"), ("torchrl sync", "torchrl")):
        with pytest.raises(ModuleNotFoundError, match=f"not installed: pip install {package}"):
            there[name]()


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (Subject("Taxi-v4", "random", 3, 4), "has no 'Taxi-v4' of its own"),
        (Subject("CartPole-v1", "random", 3, 5), "of an even number of environments, got 5"),
    ],
)
def test_what_envpool_does_not_have_is_told(subject, sentence):
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match=sentence):
        dict(ways(subject, 2))["envpool async"]()
