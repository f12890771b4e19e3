"""What others on the machine could reach while a sampler runs: nothing."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.support.processes import assert_no_shared_files_left, shared_files
from tests.support.samplers import small

pytestmark = pytest.mark.usefixtures("no_leaks")

LISTENS = 0x10000  # a flag in /proc/net/unix


@pytest.fixture
def temporary_directory(tmp_path, monkeypatch):
    """An empty one, for this process and its children."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(directory)
    return directory


def links(pid):
    """What each descriptor of a process refers to."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found[fd] = os.readlink(fd)
    return found


def sockets(pid):
    return {int(link[8:-1]) for link in links(pid).values() if link.startswith("socket:[")}


def mapped(pid):
    return Path(f"/proc/{pid}/maps").read_text()


def unix_sockets(pid):
    """Of each inode, the flags and the name."""
    lines = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    fields = [line.split(maxsplit=7) for line in lines]
    return {int(line[6]): (int(line[3], 16), "".join(line[7:])) for line in fields}


@pytest.mark.parametrize(
    ("kind", "start_method"),
    [("serial", "spawn"), pytest.param("gpu", "spawn", marks=pytest.mark.slow), ("devices", "fork")],
)
async def test_a_running_sampler_has_nothing_with_a_name(kind, start_method, temporary_directory):
    inherited, shared = sockets("self"), shared_files()
    arguments = {} if kind == "serial" else {"max_worker_restarts": 1}
    async with small(kind, **arguments, eval_n_envs=2, eval_max_steps=40, start_method=start_method) as sampler:
        await sampler.obtain_samples()
        await sampler.evaluate_agent()
        tree = [process.pid for process in psutil.Process(sampler.statistics().sampler_pid).children(recursive=True)]
        assert len(tree) == {"serial": 0, "gpu": 2, "devices": 4}[kind]
        arenas = []
        for pid in (os.getpid(), sampler.statistics().sampler_pid, *tree):
            ours, known = sockets(pid) - inherited, unix_sockets(pid)
            assert ours
            for inode in ours:
                assert inode in known, "a socket that is no unix socket"
                flags, name = known[inode]
                assert name == "", "a socket with a name"
                assert not flags & LISTENS
            maps = mapped(pid)
            assert "/memfd:aiosampler (deleted)" in maps
            assert "/dev/shm" not in maps
            assert str(temporary_directory) not in maps
            arenas += [fd for fd, link in links(pid).items() if "memfd:aiosampler" in link]
        assert arenas  # the sampler process keeps its own
        for fd in arenas:
            assert_private(fd.stat())
        assert_no_shared_files_left(shared)
        assert os.listdir(temporary_directory) == []


def assert_private(status):
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.getuid()
    assert status.st_nlink == 0  # no name in any file system
