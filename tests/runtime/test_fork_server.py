"""Processes that a server forks find what a spawned one would find, whatever became of the user's process since."""

import asyncio
import importlib
import logging
import os
import resource
import signal
import sys
import textwrap
import threading
import warnings

import numpy as np
import psutil
import pytest

from aiosampler import RandomAgent, ResourceError, SamplerClosed, WorkerDied
from aiosampler.runtime import deadlines, fork_requests
from tests.support.processes import FORK_SERVER, until, workers
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def forked(kind, *arguments, **more):
    return small(kind, *arguments, **{"start_method": "forkserver", **more})


def server():
    """The fork server of this process."""
    children = (child for child in psutil.Process().children() if child.name() == FORK_SERVER)
    (found,) = (child for child in children if child.status() != psutil.STATUS_ZOMBIE)
    return found


class Facts(CountingEnv):
    """Tells what is there where it is."""

    def facts(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        umask = os.umask(0)
        os.umask(umask)
        return {
            "environ": {name: value for name, value in os.environ.items() if name != "AIOSAMPLER_PROCESS"},
            "directory": os.getcwd(), "path": sys.path, "argv": sys.argv, "umask": umask, "limits": limits,
            "cpus": os.sched_getaffinity(0), "ignored": signal.getsignal(signal.SIGWINCH) is signal.SIG_IGN,
            "filters": [entry for entry in warnings.filters if "mine" in str(entry)],
            "output": [os.fstat(number).st_ino for number in (1, 2)], "threads": len(os.listdir("/proc/self/task")),
            "drawn": np.random.get_state()[1].tolist(),
        }  # fmt: skip


async def facts(start_method):
    async with small("serial", Facts, start_method=start_method) as sampler:
        return (await sampler.call("facts"))[0]


async def test_a_process_finds_what_it_would_find_if_it_was_spawned(tmp_path, monkeypatch):
    before = await facts("forkserver")  # there is a server now, which has seen other things
    pid = server().pid
    monkeypatch.setenv("SOMETHING_NEW", "1")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "argument"])
    warnings.filterwarnings("ignore", "mine")
    umask, ignored = os.umask(0o057), signal.signal(signal.SIGWINCH, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cpus = os.sched_getaffinity(0)
    output = os.dup(1)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 7, hard))
        os.sched_setaffinity(0, {max(cpus)})
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        forked, spawned = await facts("forkserver"), await facts("spawn")
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.sched_setaffinity(0, cpus)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.umask(umask)
        signal.signal(signal.SIGWINCH, ignored)
    assert server().pid == pid
    assert forked == spawned
    changed = {name for name in forked if forked[name] != before[name]}
    assert changed >= {"environ", "directory", "path", "argv", "umask", "limits", "ignored", "output"}


async def test_a_module_that_was_changed_and_loaded_anew_is_the_new_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = """
    from tests.support.worlds import CountingEnv

    class World(CountingEnv):
        version = {}
    """
    file = tmp_path / "changing_world.py"
    for version in (1, 2):
        file.write_text(textwrap.dedent(source).format(version))
        os.utime(file, (version, version))
        importlib.invalidate_caches()
        module = sys.modules.get("changing_world")
        module = importlib.import_module("changing_world") if module is None else importlib.reload(module)
        async with forked("cpu", module.World) as sampler:
            assert await sampler.get_attr("version") == [version] * 4
    del sys.modules["changing_world"]


async def test_a_variable_that_libraries_read_when_they_are_loaded_takes_a_new_server(monkeypatch):
    async with forked("serial") as sampler:
        before = server()
        await sampler.obtain_samples()
        monkeypatch.setenv("MKL_SOMETHING", "1")
        async with forked("serial", Facts) as other:
            assert (await other.call("facts"))[0]["environ"]["MKL_SOMETHING"] == "1"
            assert before.is_running()  # as long as it has a process
        await sampler.obtain_samples()
        process = psutil.Process(sampler.statistics().sampler_pid)
        assert process.ppid() == before.pid
    await until(lambda: not before.is_running() or before.status() == psutil.STATUS_ZOMBIE)
    assert server().pid != before.pid


async def test_a_server_that_was_killed_is_replaced():
    async with forked("serial"):
        pass
    killed = server()
    killed.kill()
    killed.wait()
    async with forked("serial") as sampler:
        await sampler.obtain_samples()


async def test_nothing_stays_of_a_sampler_whose_worker_was_killed():
    async with forked("serial"):
        pass
    before = server()
    async with forked("cpu") as sampler:
        workers(sampler)[0].kill()
        with pytest.raises(WorkerDied):
            while True:
                await sampler.obtain_samples()
    await until(lambda: before.status() == psutil.STATUS_ZOMBIE)
    async with forked("serial") as sampler:
        await sampler.obtain_samples()
    assert server().pid != before.pid


@pytest.mark.parametrize(
    ("way", "error"),
    [("close", SamplerClosed), ("cancel", asyncio.CancelledError), ("wait", ResourceError)],
)
async def test_a_server_that_is_stopped_holds_up_nobody(way, error, monkeypatch):
    async with forked("serial"):
        pass
    stopped = server()
    monkeypatch.setattr(deadlines, "KILL_S", 0.05)
    monkeypatch.setattr(deadlines, "FORK_S", 0.05 if way == "wait" else 30.0)
    sampler = forked("serial")
    stopped.suspend()
    try:
        starting = asyncio.create_task(sampler.async_initialize())
        await until(lambda: sampler._session.process is not None)  # while the loop goes on
        if way == "close":
            await sampler.aclose()
        elif way == "cancel":
            starting.cancel()
        with pytest.raises(error):
            await starting
        await sampler.aclose()
    finally:
        stopped.resume()
    await until(lambda: not stopped.children())  # what it has forked since ends by itself
    async with forked("serial") as sampler:
        await sampler.obtain_samples()


LEAVES = {
    "threads.py": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "draws.py": "import numpy as np; rng = np.random.default_rng()",
}


@pytest.fixture(params=LEAVES)
def module(request, tmp_path, monkeypatch):
    """A module that must be imported by each process for itself."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"world_that_{request.param.removesuffix('.py')}"
    world = "from tests.support.worlds import CountingEnv\nclass World(CountingEnv): pass\n"
    (tmp_path / f"{name}.py").write_text(f"{LEAVES[request.param]}\n{world}")
    importlib.invalidate_caches()
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)  # not here
    module = importlib.import_module(name)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    del sys.modules[name]


async def test_what_must_not_be_shared_is_left_to_each_process(module, caplog):
    caplog.set_level(logging.INFO, "aiosampler")
    async with forked("cpu", module.World, agent=RandomAgent()) as sampler:
        await sampler.obtain_samples()
    (line,) = (record.getMessage() for record in caplog.records if "for itself" in record.getMessage())
    assert line.startswith(f"each process imports {module.__name__} for itself: in the fork server it ")


async def test_what_a_server_imports_may_be_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "told.py").write_text(f"with open({str(tmp_path / 'imports')!r}, 'a') as file: file.write('.')\n")

    def world():
        import told  # noqa: F401

        return CountingEnv()

    for preload, expected in ((), 3), (["told"], 2):  # the example's, and two workers', or their server
        (tmp_path / "imports").write_text("")
        async with forked("cpu", world, preload=preload) as sampler:
            await sampler.obtain_samples()
        assert len((tmp_path / "imports").read_text()) == expected


@pytest.mark.slow
async def test_where_there_can_be_no_server_processes_are_spawned(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "starts_threads.py").write_text(LEAVES["threads.py"])
    fork_requests.leave_own_server()
    monkeypatch.setattr(fork_requests, "_refused", None)
    monkeypatch.setattr("aiosampler.samplers.starting.PRELOADED", ("starts_threads",))
    for _ in range(2):
        async with forked("serial") as sampler:
            await sampler.obtain_samples()
    (line,) = (record.getMessage() for record in caplog.records if "are spawned" in record.getMessage())
    assert line.endswith("starts_threads started 1 thread")


@pytest.mark.slow
async def test_workers_are_replaced_where_their_server_was_killed():
    async with forked("cpu", max_worker_restarts=1) as sampler:
        await sampler.obtain_samples()
        lost, _ = workers(sampler)
        for process in psutil.Process(sampler.statistics().sampler_pid).children(recursive=True):
            if process.name() == FORK_SERVER:
                process.kill()
        lost.kill()
        while not sampler.statistics().restarts:
            await sampler.obtain_samples()
        assert (await sampler.obtain_samples()).valid.all()


async def test_processes_of_one_import_are_small_and_have_one_thread_when_they_are_forked():
    async with forked("cpu") as sampler:
        await sampler.obtain_samples()
        servers = [child for child in psutil.Process().children(recursive=True) if child.name() == FORK_SERVER]
        assert len(servers) >= 2
        assert all(process.num_threads() == 1 for process in servers)
        for worker in workers(sampler):
            assert worker.memory_full_info().uss < 30 * 2**20
