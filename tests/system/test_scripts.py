"""Programs of users: no guard around `__main__`, standard input, notebooks, and every way to die."""

import contextlib
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from tests.support.processes import assert_no_shared_files_left, shared_files

SCRIPT = """
import asyncio, os, sys
import gymnasium as gym
import numpy as np
import torch
from aiosampler import Agent, AgentStep, AsyncSerialSampler, TrajInfo

print("main runs", flush=True)
ACTIONS = 2

class Env(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

class Info(TrajInfo):
    def terminate(self, observation):
        self.final = float(observation[0])
        return self

class Left(Agent):
    def step(self, inputs, state):
        return AgentStep(torch.randint(ACTIONS, inputs.prev_reward.shape))

async def main():
    sampler = AsyncSerialSampler(lambda: Env(), agent=Left(), batch_T=50, batch_B=2, traj_info_cls=Info)
    async with sampler:
        samples = await sampler.obtain_samples()
        assert samples.traj_infos
        assert all(type(info) is Info and info.final for info in samples.traj_infos)
        print("pids", os.getpid(), sampler.statistics().sampler_pid, flush=True)
        AT_THE_END

RUN
"""


def script(at_the_end="pass", run="asyncio.run(main())"):
    return textwrap.dedent(SCRIPT).replace("AT_THE_END", at_the_end).replace("RUN", run)


def output(*command, **options):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=50, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


#: Of programs that say the same once more: each takes a few seconds of a CPU to import torch, twice.
slow = pytest.mark.slow


@pytest.mark.parametrize("way", ["file", pytest.param("stdin", marks=slow), pytest.param("module", marks=slow)])
def test_a_main_module_without_a_guard_runs_once(way, tmp_path):
    code = script()
    (tmp_path / "program.py").write_text(code)
    match way:
        case "file":
            printed = output("program.py", cwd=tmp_path)
        case "stdin":
            printed = output("-", input=code, cwd=tmp_path)
        case "module":
            printed = output("-m", "program", cwd=tmp_path)
    assert printed.count("main runs") == 1
    assert printed.count("pids") == 1


@slow
def test_what_is_defined_in_a_notebook_travels_by_value(tmp_path):
    # A notebook's kernel runs cells in a module `__main__` without a file, on a loop that is already running.
    code = f"""
import asyncio, sys, types
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
cell = compile({script(run="task = main()")!r}, "<cell>", "exec")
async def kernel():
    exec(cell, vars(main))
    await main.task
asyncio.run(kernel())
"""
    assert output("-c", code, cwd=tmp_path).count("main runs") == 1


@slow
def test_an_environment_that_the_script_registers_is_found(tmp_path):
    code = (
        script()
        .replace(
            "class Info",
            'gym.register("Mine-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")\nclass Info',
        )
        .replace("lambda: Env()", '"Mine-v0"')
    )
    assert output("-c", code, cwd=tmp_path).count("pids") == 1


@slow
def test_a_forgotten_sampler_does_not_keep_the_interpreter_from_ending_when_warnings_are_errors(tmp_path):
    code = script().replace(
        "async with sampler:", "await sampler.async_initialize(); await sampler.initialize()\n    if 1:"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=30, cwd=tmp_path)
    assert b"was not closed" in done.stderr


@contextlib.contextmanager
def started(code, tmp_path):
    """The process of a script that runs, and all of its processes; nothing of it is left after the test, come what may.

    A test run that was started in the background ignores SIGINT, and would pass that on.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    family = []
    try:
        for line in process.stdout:
            if line.startswith("pids"):
                break
        else:
            raise AssertionError(process.stderr.read())
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield process, family
    finally:
        for member in (psutil.Process(process.pid), *family) if process.poll() is None else family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()


def assert_gone(processes, before):
    deadline = time.monotonic() + 15
    _, alive = psutil.wait_procs(processes, timeout=15)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"alive {time.monotonic() - deadline + 15:.1f} s after the end of the user's process"
    assert_no_shared_files_left(before)


@pytest.mark.parametrize(
    ("name", "doing"),
    [
        pytest.param("SIGKILL", "idle", marks=slow),
        ("SIGKILL", "busy"),
        pytest.param("SIGKILL", "stuck", marks=slow),
        pytest.param("SIGTERM", "busy", marks=slow),
        pytest.param("SIGINT", "busy", marks=slow),
        ("SIGINT", "stuck"),
    ],
)
def test_the_end_of_the_users_process_ends_everything(name, doing, tmp_path):
    before = shared_files()
    what = {
        "idle": "await asyncio.sleep(60)",
        "busy": "\n        while True: await sampler.obtain_samples()",
        "stuck": "\n        while True: torch.zeros(10).sum()",
    }[doing]
    with started(script(what), tmp_path) as (process, family):
        process.send_signal(getattr(signal, name))
        if name == "SIGINT" and doing == "stuck":  # asyncio can cancel only what awaits; the second interrupt is final
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        process.wait(30)
        assert_gone(family, before)


@pytest.mark.parametrize(
    "code",
    [
        script("os._exit(0)"),
        pytest.param(script("raise RuntimeError('on purpose')"), marks=slow),
        pytest.param(
            script().replace(
                "async with sampler:",
                "await sampler.async_initialize(); await sampler.initialize()\n    if True:",
            ),
            marks=slow,
        ),
    ],
    ids=["exit", "raise", "forgotten"],
)
def test_a_program_that_ends_in_any_way_leaves_nothing_behind(code, tmp_path):
    before = shared_files()
    with started(code, tmp_path) as (process, family):
        _, errors = process.communicate(timeout=60)
        assert_gone(family, before)
    assert "on purpose" in errors or errors == "" or "ResourceWarning" in errors


@pytest.mark.slow  # a program with a fork server of its own
def test_a_module_that_starts_a_sampler_whenever_it_is_imported_is_named(tmp_path):
    (tmp_path / "careless.py").write_text(
        "import torch\n"
        "from aiosampler import Agent, AgentStep, AsyncSerialSampler\n"
        "class Left(Agent):\n"
        "    def step(self, inputs, state):\n"
        "        return AgentStep(torch.zeros(len(inputs.prev_reward), dtype=torch.int64))\n"
        "with AsyncSerialSampler('CartPole-v1', agent=Left(), batch_T=2, batch_B=2).sync() as sampler:\n"
        "    print(next(sampler).itr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import careless"], capture_output=True, text=True, timeout=50, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "ConfigError: the module 'careless' starts a sampler when it is imported" in done.stderr
    assert done.stdout == ""
