"""The programs, batch systems and terminals that a sampler runs under."""

import asyncio
import atexit
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from multiprocessing import shared_memory

import psutil
import pytest

from aiosampler import AsyncSerialSampler, RandomAgent, WorkerDied, WorkerError, WorkerTimeout
from aiosampler.runtime import deadlines
from aiosampler.runtime.job_signals import JOB_SIGNALS
from aiosampler.runtime.process import Process
from tests.support.processes import our_children, until
from tests.support.samplers import small
from tests.support.worlds import CountingEnv, FaultyEnv

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.slow]


SOME = ["serial", "cpu", "gpu", "devices"]
#: Each kind as it starts by default, and some kind by each other method, which has no more to do with the kind.
STARTS = [*((kind, "forkserver") for kind in SOME), ("gpu", "spawn"), ("cpu", "fork")]


@pytest.fixture(params=SOME)
def kind(request):
    return request.param


@pytest.mark.parametrize(("kind", "start_method"), STARTS)
async def test_signals_to_a_whole_job_end_no_process_of_a_sampler(kind, start_method):
    async with small(kind, start_method=start_method) as sampler:
        await sampler.obtain_samples()
        for process in our_children():
            for number in JOB_SIGNALS:
                process.send_signal(number)
        for _ in range(3):
            await sampler.obtain_samples()


class Program(CountingEnv):
    """Starts a program, and has it end in its own way, or not at all."""

    def __init__(self, end, mark):
        super().__init__(longest=50, shortest=50)
        self._end, self._n = end, 0
        self._program = subprocess.Popen(["sleep", f"1000.{mark}"], start_new_session=True)

    def step(self, action):
        self._n += 1
        if self._n == 20:
            match self._end:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "stick":
                    signal.pause()
                case "raise":
                    raise RuntimeError
                case "terminate":
                    self._program.terminate()
                    assert self._program.wait() == -signal.SIGTERM
        return super().step(action)


@pytest.mark.parametrize("end", ["close", "kill", "stick", "raise", "terminate"])
async def test_programs_that_environments_start_are_gone_with_the_sampler(kind, end):
    mark = uuid.uuid4().int
    expected = {"kill": WorkerDied, "stick": WorkerTimeout, "raise": WorkerError}.get(end)
    arguments = {"step_timeout": 1.0} if end == "stick" else {}
    sampler = small(kind, lambda: Program(end, mark), batch_T=8, **arguments)
    if expected is None:
        async with sampler:
            for _ in range(4):
                await sampler.obtain_samples()
    else:
        with pytest.raises(expected):
            async with sampler:
                async for _ in sampler:
                    pass
    programs = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", f"1000.{mark}"] not in programs


def reap_all(number, frame):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@pytest.fixture(params=[signal.SIG_IGN, reap_all], ids=["ignored", "reaped"])
def children_of_others(request):
    """The host leaves no exit codes to ask for."""
    before = signal.signal(signal.SIGCHLD, request.param)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("children_of_others")
@pytest.mark.parametrize(("kind", "start_method"), STARTS)
async def test_a_host_may_take_the_exit_codes_of_its_children(kind, start_method):
    async with small(kind, start_method=start_method) as sampler:
        await sampler.obtain_samples()
    with pytest.raises(WorkerError, match=r"environment . failed"):
        async with small(kind, lambda: FaultyEnv("raise"), start_method=start_method) as sampler:
            async for _ in sampler:
                pass


@pytest.mark.usefixtures("children_of_others")
async def test_a_process_whose_exit_code_is_not_known_is_reported_all_the_same(kind):
    with pytest.raises(WorkerDied, match="ended unexpectedly by"):
        async with small(kind, lambda: FaultyEnv("exit")) as sampler:
            async for _ in sampler:
                pass


SUSPENDED = """
import asyncio
import time
from tests.support.samplers import small
from tests.support.worlds import CountingEnv

class World(CountingEnv):
    # Takes its time to be built, and for one of its steps, of which none passes while it is stopped
    def __init__(self, context):
        super().__init__()
        self._first = context is not None and context.index == 0
        self._work("building")

    def step(self, action):
        if self._episode == 3:
            self._work("stepping")
        return super().step(action)

    def _work(self, name):
        if self._first:
            print(name, flush=True)
            end = time.process_time() + 0.6
            while time.process_time() < end:
                pass
            self._first = name == "building"

async def collect():
    async with small("cpu", lambda context: World(context), step_timeout=1.5, start_timeout=3.0) as sampler:
        for _ in range(10):
            await sampler.obtain_samples()
        print("done", flush=True)

asyncio.run(collect())
"""


def test_a_job_that_is_suspended_at_its_terminal_goes_on_by_fg(tmp_path):
    """By Ctrl-Z in a shell, for longer than what is waiting for a start, or a step, would wait."""
    script = tmp_path / "job.py"
    script.write_text(SUSPENDED)
    shell, terminal = pty.fork()
    if shell == 0:
        os.execvpe("sh", ["sh", "-i"], {**os.environ, "PS1": "", "ENV": ""})
    said = ""

    def wait_for(text):
        nonlocal said
        while text not in said:
            said += os.read(terminal, 10_000).decode()
            assert "Error" not in said
        said = said.split(text, 1)[1]

    try:
        os.write(terminal, f"stty -echo; {sys.executable} {script}\n".encode())
        for moment, seconds in (("building", 4.0), ("stepping", 2.5)):
            wait_for(moment)
            os.write(terminal, b"\x1a")  # Ctrl-Z
            wait_for("Stopped")
            time.sleep(seconds)
            os.write(terminal, b"fg\n")
        wait_for("done")
    finally:
        os.kill(shell, signal.SIGHUP)
        os.close(terminal)
        os.waitpid(shell, 0)


def collect_one():
    async def collect():
        sampler = AsyncSerialSampler(CountingEnv, agent=RandomAgent(), batch_T=4, batch_B=2)
        async with sampler:
            await sampler.obtain_samples()

    asyncio.run(collect())


def test_a_daemonic_process_may_have_a_sampler():
    process = multiprocessing.get_context("spawn").Process(target=collect_one, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0


async def test_a_process_that_not_even_a_kill_ends_is_left(monkeypatch):
    sampler = small("serial")
    await sampler.async_initialize()
    await sampler.initialize()
    (process,) = our_children()
    monkeypatch.setattr(Process, "kill", lambda self: None)
    monkeypatch.setattr(deadlines, "SAMPLER_CLOSE_S", 0.1)
    monkeypatch.setattr(deadlines, "KILL_S", 0.1)
    process.suspend()
    monkeypatch.setattr(Process, "send_signal", lambda self, number: None)
    await sampler.aclose()
    process.kill()
    await until(lambda: not our_children())


class Attached(CountingEnv):
    def __init__(self, name):
        super().__init__()
        self._memory = shared_memory.SharedMemory(name)

    def close(self):
        self._memory.close()
        super().close()


@pytest.mark.parametrize(("kind", "start_method"), STARTS)
async def test_shared_memory_of_the_user_is_there_after_the_sampler(kind, start_method):
    memory = shared_memory.SharedMemory(create=True, size=8)
    try:
        async with small(kind, lambda: Attached(memory.name), start_method=start_method) as sampler:
            await sampler.obtain_samples()
        shared_memory.SharedMemory(memory.name).close()
    finally:
        memory.close()
        memory.unlink()


def test_a_process_of_ours_tracks_the_segments_that_it_made(tmp_path):
    code = """
    import sys
    from multiprocessing.shared_memory import SharedMemory
    from aiosampler.runtime.segments import track_own_segments_only
    track_own_segments_only()
    SharedMemory(sys.argv[1])
    print(SharedMemory(create=True, size=8).name)
    """
    name = f"aiosampler-test-{os.getpid()}"
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(b"12345678")
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), name], capture_output=True, text=True, check=True
        )
        assert os.path.exists(f"/dev/shm/{name}")
        assert "1 leaked shared_memory" in done.stderr
        assert not os.path.exists(f"/dev/shm/{done.stdout.strip()}")
    finally:
        os.unlink(f"/dev/shm/{name}")


class AtExit(CountingEnv):
    def __init__(self, path):
        super().__init__()
        atexit.register(path.touch)


@pytest.mark.parametrize(("kind", "start_method"), [start for start in STARTS if "fork" not in start])
async def test_functions_for_the_end_of_the_interpreter_are_called(kind, start_method, tmp_path):
    async with small(kind, lambda: AtExit(tmp_path / "called"), start_method=start_method) as sampler:
        await sampler.obtain_samples()
    assert (tmp_path / "called").exists()
