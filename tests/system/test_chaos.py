"""Processes killed or stopped at random moments: every run ends soon, with a typed error or normally, leaving nothing.

A short form runs with the other tests. The long form: ``python -m tests.system.test_chaos --runs 200 --seed 1``.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import functools
import gc
import itertools
import os
import random
import select
import signal
import threading
import time
import traceback

import psutil
import pytest
import torch
import uvloop

from aiosampler import SamplerClosed, SamplerError, TrajInfo, WorkerDied, WorkerTimeout, environment_seed
from aiosampler.runtime.descendants import NAME_PREFIX
from tests.support.agents import AgeAgent
from tests.support.processes import assert_no_shared_files_left, descriptors, our_children, shared_files
from tests.support.samplers import KINDS
from tests.support.worlds import CountingEnv

PHASES = {"starting": 0.2, "collecting": 0.05, "evaluating": 0.05, "idling": 0.05, "closing": 0.02}  # and their seconds
#: What is killed, and how often workers are replaced. In mode "user" it is the process that holds the sampler.
MODES = {"any": 0, "any-restarts": 1000, "workers": 1000, "user": 0}
STEP_TIMEOUT, START_TIMEOUT = 3.0, 12.0  # for processes that are stopped; tests that run beside it stop none as long
SEED, B, ROUNDS, LIMIT_S, GONE_S = 5, 8, 3, 60.0, 15.0


@functools.cache
def seeds(b):
    return {environment_seed(SEED, b, restarts=r) for r in range(10)}


def assert_counts_up(samples):
    """In each column, what follows a valid row without an end is the next step; all is of its own environments."""
    valid, done, observation = samples.valid, samples.env.done, samples.env.observation
    assert not observation[~valid].any()
    assert samples.stats.env_steps == valid.sum()
    for b in range(B):
        rows = torch.nonzero(valid[:, b])[:, 0].tolist()
        assert {int(observation[t, b, 0]) for t in rows} <= seeds(b)
        for t, following in itertools.pairwise(rows):
            assert following == t + 1, "a gap in a column"  # what is lost is lost to the end of the batch
            seed, episode, step = observation[t, b].tolist()
            expected = [seed, episode + 1, 0] if done[t, b] else [seed, episode, step + 1]
            assert observation[following, b].tolist() == expected


class Following:
    """What the first row of a column must be, if the last row of the batch before was valid and no worker was lost."""

    def __init__(self):
        self._last = {}

    def check(self, samples):
        for b in range(B):
            first = samples.env.observation[0, b].tolist()
            before = self._last.get(b)
            if before is not None and samples.valid[0, b] and first[0] == before[0]:
                assert first == before
            rows = torch.nonzero(samples.valid[:, b])[:, 0].tolist()
            self._last[b] = None
            if len(rows) == len(samples.valid):
                self._last[b] = samples.env.last_observation[b].tolist()


class Lifeline:
    """A pipe that all processes forked meanwhile hold an end of, also those whose parent was killed."""

    def __init__(self):
        self._read, self._write = os.pipe()

    def all_gone(self, timeout):
        """Whether they have all ended before the timeout."""
        os.close(self._write)
        poll = select.poll()
        poll.register(self._read, 0)
        gone = bool(poll.poll(timeout * 1000))
        os.close(self._read)
        return gone


@dataclasses.dataclass
class Kill:
    """One kill, where there was a process."""

    role: str
    phase: str
    number: int
    at: float


class Killer:
    """Kills a process of the tree below this one, some time after a phase of the run has begun."""

    def __init__(self, draw, mode):
        self._draw, self._mode = draw, mode
        times = {"workers": draw.randint(1, 3), "none": 0}.get(mode, 1)
        self._fates = {}
        self.number = draw.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP))
        for _ in range(times):
            phase = draw.choice(list(PHASES))
            turn = draw.randrange(ROUNDS) if phase not in ("starting", "closing") else 0
            self._fates[phase, turn] = draw.uniform(0, PHASES[phase])
        self.phase = "new"
        self.kills = []
        self._over = threading.Event()
        self._threads = []

    def enter(self, phase, turn=0):
        self.phase = phase
        delay = self._fates.pop((phase, turn), None)
        if delay is not None:
            self._threads.append(threading.Thread(target=self._kill_after, args=(delay,)))
            self._threads[-1].start()

    def _kill_after(self, delay):
        end = time.monotonic() + delay
        while not self._over.wait(max(0.0, end - time.monotonic())):
            candidates = self._candidates()
            if candidates:
                role, process = self._draw.choice(candidates)
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill = Kill(role, self.phase, self.number, time.monotonic())
                    process.send_signal(self.number)
                    self.kills.append(kill)
                return
            end = time.monotonic() + 0.001  # it is to start yet

    def _candidates(self):
        """Processes below this one by what they are, as their names tell. One that was just forked has its parent's."""
        roles = ("worker",) if self._mode == "workers" else ("sampler", "server", "worker")
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                name = process.name()
                role = name.removeprefix(NAME_PREFIX).partition("-")[0]
                if role in roles and name != psutil.Process(process.ppid()).name():
                    found.append((role, process))
        return found

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join()


@dataclasses.dataclass
class Outcome:
    """How a run ended; without the exception, whose frames hold on to batches."""

    error: str
    message: str
    kills: list
    gone: float  # seconds until no process was left
    detection: float | None = None  # seconds from the kill to the error at the caller

    def __str__(self):
        kills = ", ".join(
            f"{signal.Signals(kill.number).name} of a {kill.role} while {kill.phase}" for kill in self.kills
        )
        late = f"{self.detection:.2f} s later " if self.detection is not None else ""
        return f"{kills or 'nothing to kill'} -> {late}{self.error}{self.message and ': '}{self.message}"


async def use(sampler, killer):
    """Start, obtain batches and evaluate in turns, close."""
    following = Following()
    killer.enter("starting")
    async with sampler:
        for turn in range(ROUNDS):
            killer.enter("collecting", turn)
            for _ in range(4):
                samples = await sampler.obtain_samples()
                assert_counts_up(samples)
                following.check(samples)
            killer.enter("evaluating", turn)
            assert all(type(info) is TrajInfo for info in await sampler.evaluate_agent())
            killer.enter("idling", turn)
            await asyncio.sleep(PHASES["idling"])
        killer.enter("closing")


async def survive(sampler, killer):
    """Use the sampler for as long as it goes."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await use(sampler, killer)
        error = None
    except SamplerError as exc:
        error = exc
    except TimeoutError:
        raise AssertionError(f"no end in {LIMIT_S} s while {killer.phase}, {killer.kills}") from None
    finally:
        ended = time.monotonic()
        killer.stop()
    assert sampler.statistics().state == "closed"
    with contextlib.suppress(SamplerClosed):
        await sampler.obtain_samples()
        raise AssertionError("a closed sampler goes on")
    return error, ended


def run(kind, mode, seed):
    """One run, with all that it draws fixed by its seed; when a drawn delay ends is up to the machine.

    Raises:
        AssertionError: It did not end as it should.
    """
    draw = random.Random(f"{kind} {mode} {seed}")
    if mode == "user":
        return run_as_user(kind, draw)
    killer, lifeline = Killer(draw, mode), Lifeline()
    sampler = make(kind, draw, MODES[mode], timeouts=killer.number == signal.SIGSTOP)
    try:
        with asyncio.Runner(loop_factory=draw.choice((asyncio.new_event_loop, uvloop.new_event_loop))) as runner:
            error, ended = runner.run(survive(sampler, killer))
    finally:
        began = time.monotonic()
        all_gone = lifeline.all_gone(GONE_S)
        gone = time.monotonic() - began
        for process in our_children():  # of a run that failed
            process.kill()
    outcome = Outcome(type(error).__name__ if error else "normal end", str(error or ""), killer.kills, gone)
    assert all_gone, f"a process is left, {outcome}"
    if error is not None:
        assert killer.kills, f"nothing was killed, {outcome}"
        outcome.detection = ended - killer.kills[0].at
        assert mode != "workers", f"workers are replaced, {outcome}"
        stopped = killer.number == signal.SIGSTOP
        assert type(error) in (WorkerTimeout if stopped else WorkerDied, SamplerClosed), f"another error, {outcome}"
        if not isinstance(error, SamplerClosed):
            (kill,) = killer.kills
            assert error.process.startswith(kill.role), f"another process, {outcome}"
            assert stopped or error.exitcode == -kill.number, f"another exit code, {outcome}"
        if mode == "any-restarts":
            assert killer.kills[0].role != "worker", f"workers are replaced, {outcome}"
    return outcome


def run_as_user(kind, draw):
    """One run in which the process that holds the sampler is killed, terminated or interrupted."""
    number, delay = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)), draw.uniform(0, 1.0)
    lifeline = Lifeline()
    user = os.fork()
    if user == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            with contextlib.suppress(KeyboardInterrupt), asyncio.Runner() as runner:
                while True:  # so that closing is interrupted, too
                    sampler = make(kind, draw, 0)
                    runner.run(use(sampler, Killer(draw, "none")))
        finally:
            os._exit(0)
    time.sleep(delay)
    began = time.monotonic()
    os.kill(user, number)
    try:
        all_gone = lifeline.all_gone(GONE_S)
        gone = time.monotonic() - began
    finally:
        os.kill(user, signal.SIGKILL)
        os.waitpid(user, 0)
    outcome = Outcome("normal end", "", [Kill("user", f"running for {delay:.2f} s", number, began)], gone)
    assert all_gone, f"a process is left, {outcome}"
    return outcome


def make(kind, draw, restarts, *, timeouts=False):
    arguments = {}
    if kind != "serial":
        arguments = {"n_workers": draw.choice((2, 4)), "max_worker_restarts": restarts}
    return KINDS[kind](
        CountingEnv,
        agent=AgeAgent(),
        batch_T=draw.choice((1, 5, 40)),
        batch_B=B,
        seed=SEED,
        bootstrap_value=True,
        mid_batch_reset=draw.random() < 0.5,
        overlap=draw.random() < 0.7,
        eval_n_envs=4,
        eval_max_steps=400,
        start_method="fork",
        step_timeout=STEP_TIMEOUT if timeouts else None,
        start_timeout=START_TIMEOUT if timeouts else 120.0,
        **arguments,
    )


def cases():
    for kind in KINDS:
        for number, mode in enumerate(MODES):
            yield kind, ("any" if kind == "serial" and mode != "user" else mode), number + 1


@pytest.mark.each_kind
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(("kind", "mode", "seed"), [
    pytest.param(kind, mode, seed, id=f"{kind}-{mode}-seed{seed}") for kind, mode, seed in cases()
])  # fmt: skip
def test_a_process_killed_at_a_random_moment_ends_the_run_or_is_replaced(kind, mode, seed):
    print(f"seed {seed}: {run(kind, mode, seed)}")


def check_leaks(before, shared):
    gc.collect()
    assert our_children() == []
    left = {name for name in descriptors().values() if "memfd" in name} - before
    assert not left, left
    assert_no_shared_files_left(shared)


def main():
    parser = argparse.ArgumentParser(description="Kill processes of samplers at random moments.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after these")
    options = parser.parse_args()
    outcomes, failures, worst, last = collections.Counter(), [], (0.0, "none"), (0.0, "none")
    began = time.monotonic()
    choices = [(kind, mode) for kind in KINDS for mode in MODES if kind != "serial" or mode in ("any", "user")]
    random.Random(options.seed).shuffle(choices)
    for number, (kind, mode) in zip(range(options.runs), itertools.cycle(choices)):
        if time.monotonic() - began > options.seconds:
            break
        seed = options.seed * 1_000_000 + number
        name = f"{kind} {mode} seed {seed}"
        before, shared = set(descriptors().values()), shared_files()
        try:
            outcome = run(kind, mode, seed)
            check_leaks(before, shared)
        except Exception as exc:
            failures.append(name)
            print(f"FAILED {name}: {''.join(traceback.format_exception(exc))}", flush=True)
            continue
        print(f"{name}: {outcome}", flush=True)
        outcomes[f"{mode}: {outcome.error}{'' if outcome.kills else ', nothing to kill'}"] += 1
        worst = max(worst, (outcome.detection or 0.0, f"{name}: {outcome}"))
        last = max(last, (outcome.gone, f"{name}: {outcome}"))
    print(f"\n{sum(outcomes.values())} runs ended as they should, {len(failures)} did not")
    for what, count in sorted(outcomes.items()):
        print(f"{count:5} {what}")
    print(f"worst detection {worst[0]:.2f} s, {worst[1]}")
    print(f"last process gone {last[0]:.2f} s after the end, {last[1]}")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
