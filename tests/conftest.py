import asyncio
import gc
import os
import random

import numpy as np
import psutil
import pytest
import torch


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request):
    return request.param


def our_children():
    """Descendants of this process, without the helper processes that multiprocessing keeps for its own."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
            # What a fork server forks has its command line, but is its child
            is_server = "multiprocessing.forkserver" in line and line != " ".join(child.parent().cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and not is_server and "resource_tracker" not in line:
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def descriptors():
    return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}


def _is_open(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")


@pytest.fixture
def no_leaks():
    """The test leaves no process, no descriptor and nothing in /dev/shm behind."""
    before, shared = set(descriptors().values()), set(os.listdir("/dev/shm"))
    gc.freeze()  # torch and its like need not be looked through after each test
    yield
    gc.collect()  # exceptions hold on to frames, and frames to batches
    assert our_children() == []
    assert set(os.listdir("/dev/shm")) <= shared
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


async def until(condition, timeout=10.0):
    """Wait for what another process does; only its end can be awaited, not its progress."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - it is another process that changes the condition
            await asyncio.sleep(0.01)
