"""The processes, descriptors and shared memory that tests watch, and waiting for what another process does."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
FORK_SERVER = "aio:fork-server"  # the name of these processes


def our_children():
    """Descendants of this process, without fork servers and the resource tracker of multiprocessing."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            is_tracker = "resource_tracker" in " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and not is_tracker and child.name() != FORK_SERVER:
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def workers(sampler):
    """The processes that have no children: all below the sampler process but action servers and fork servers."""
    found = []
    for process in psutil.Process(sampler.statistics().sampler_pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if not process.children() and process.name() != FORK_SERVER:
                found.append(process)
    return found


def progress(sampler):
    """What the processes of a sampler tell of how far they are: ``[P, 8]`` int64, see `aiosampler.memory.progress`.

    A view of the arena, which no user has: no test reaches for it but through this.
    """
    return sampler._shared._views.progress


def descriptors():
    """What each open descriptor of this process refers to."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def shared_files():
    """The names in /dev/shm."""
    return set(os.listdir(SHARED))


def assert_no_shared_files_left(before, timeout=6.0):
    """Nothing is new in /dev/shm, but what processes of others on this machine hold; theirs comes and goes."""
    until = time.monotonic() + timeout
    while (new := shared_files() - before) and (left := new - _of_others(new)):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def _of_others(names):
    """Those names in /dev/shm that are gone by now, or whose files processes have mapped which are not below this one.

    A semaphore is mapped by another name than it has in the end; the inode is the same.
    """
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    inodes = set()
    for pid in set(psutil.pids()) - ours:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            mappings = (line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
            inodes.update(int(fields[4]) for fields in mappings if fields[-1].startswith(f"{SHARED}/"))
    with os.scandir(SHARED) as there:
        return names - {file.name for file in there if file.inode() not in inodes}


async def until(condition, timeout=10.0):
    """Wait for what another process does; only its end can be awaited, not its progress."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - it is another process that changes the condition
            await asyncio.sleep(0.01)
