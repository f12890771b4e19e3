"""Fixtures of all tests: the two event loops, and what a test leaves as it was."""

import functools
import gc
import importlib
import os
import pkgutil
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import uvloop  # noqa: F401 - for what is forked, see below

import aiosampler
from tests.support.once_more import mark_as_slow
from tests.support.processes import assert_no_shared_files_left, descriptors, our_children, shared_files
from tests.support.samplers import LOCKSTEP, PARALLEL, small
from tests.support.shared_pages import make_forks_cheap

ROOT = Path(__file__).parent.parent
#: Programs that tests start use this checkout, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
# What is forked here need not import its modules in each process anew, which takes as long as all else that a small
# test does. What is spawned, and what fork servers and programs are, imports them where they are needed.
EXTRAS = {"interop", "ray"}  # may not be installed
for room in pkgutil.iter_modules(aiosampler.__path__, "aiosampler."):
    if room.name.rpartition(".")[2] not in {*EXTRAS, "__main__"}:
        imported = importlib.import_module(room.name)
        for module in pkgutil.iter_modules(getattr(imported, "__path__", ()), f"{room.name}."):
            importlib.import_module(module.name)
torch.set_num_threads(1)  # as in a sampler; tests run beside each other, and threads that wait for a CPU hold up others


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Of what is tried with many parameters, some are slow."""
    mark_as_slow(items)


def pytest_collection_finish():
    """All test files are imported: what samplers are forked from is as big as it gets."""
    make_forks_cheap()


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request):
    return request.param


@pytest.fixture(params=PARALLEL)
def parallel(request):
    """Makes a small sampler of each kind that has workers."""
    return functools.partial(small, request.param)


@pytest.fixture(params=[name for name in PARALLEL if name in LOCKSTEP])
def lockstep(request):
    """Makes a small sampler of each kind that has workers in lockstep: timing does not show in what agents draw."""
    return functools.partial(small, request.param)


@pytest.fixture
def no_leaks():
    """The test leaves no process, no descriptor and nothing in /dev/shm behind."""
    before, shared = set(descriptors().values()), shared_files()
    gc.freeze()  # torch and its like need not be looked through after each test
    yield
    gc.collect()  # exceptions hold on to frames, and frames to batches
    assert our_children() == []
    assert_no_shared_files_left(shared)
    left = {name for name in descriptors().values() if "memfd" in name} - before
    assert not left


@pytest.fixture
def same_generators():
    """The test may seed the global generators of this process."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
