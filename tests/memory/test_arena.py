"""Shared memory: two mappings are one memory, and what cannot be had is refused."""

import errno
import os
import stat

import numpy as np
import pytest

from aiosampler import ArenaError
from aiosampler.memory import arena as arena_module
from aiosampler.memory.arena import Arena
from aiosampler.specs.arrays import ArraySpec

SPECS = {
    "a": ArraySpec((3, 5), np.dtype(np.uint8)),
    "b": (ArraySpec((), np.dtype(np.float64)), ArraySpec((0, 4), np.dtype(np.int32)), None),
    "c": {"d": ArraySpec((2,), np.dtype(np.bool_))},
}


@pytest.fixture(params=["memfd", "file"])
def descriptor_kind(request, monkeypatch):
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create")
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd_create")
    return request.param


def test_two_mappings_of_an_arena_are_the_same_memory(descriptor_kind):
    arena = Arena()
    arena.grow(1 << 20, 1 << 16)
    one, two = arena.map(1 << 20), arena.map(1 << 20)
    one[12345] = 77
    assert two[12345] == 77
    name = os.readlink(f"/proc/self/fd/{arena._descriptor}")
    assert name.endswith("(deleted)")  # nobody else can open it
    status = os.fstat(arena._descriptor)
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 0)
    arena.close()
    arena.close()
    one[1] = 3  # a mapping outlives the descriptor


@pytest.mark.parametrize("nbytes", [1 << 50, 1 << 62])
def test_memory_that_cannot_be_had_is_refused_with_its_size(descriptor_kind, nbytes):
    arena = Arena()
    with pytest.raises(ArenaError, match=f"{nbytes:,} bytes"):
        arena.grow(nbytes, nbytes)
    arena.close()


def test_what_the_system_says_against_it_is_passed_on(monkeypatch):
    monkeypatch.setattr(arena_module, "available_memory", lambda: None)  # where it cannot be told beforehand
    arena = Arena(os.open("/dev/null", os.O_RDWR))
    with pytest.raises(ArenaError, match=r"8,192 bytes of shared memory.*cannot be had \(.*Invalid argument"):
        arena.grow(8192, 4096)
    with pytest.raises(ArenaError, match="cannot map"):
        arena.map(8192)
    arena.close()


def test_a_limit_of_file_sizes_is_named(monkeypatch):
    def refuse(*args):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    arena = Arena()
    with pytest.raises(ArenaError, match=r"File too large.*limit of file sizes \(`ulimit -f`\): raise that"):
        arena.grow(8192, 4096)
    arena.close()
