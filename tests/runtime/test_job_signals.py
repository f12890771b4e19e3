"""What programs and forked children have of the signals that processes of ours outlive."""

import subprocess
import sys
import textwrap

import pytest


def output(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_programs_inherit_nothing():
    code = """
    import os, subprocess, signal
    from aiosampler.runtime.job_signals import JOB_SIGNALS, held_back, outlive_job_signals
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup
    with held_back():
        pass
    outlive_job_signals()
    for number in JOB_SIGNALS:
        os.kill(os.getpid(), number)
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    sets = dict(line.split() for line in status.splitlines() if line.startswith(("SigIgn", "SigBlk", "SigCgt")))
    print(any(int(mask, 16) >> number - 1 & 1 for mask in sets.values() for number in JOB_SIGNALS))
    """
    assert output(code) == ["False"]


def test_forked_children_end_by_them():
    code = """
    import os, signal
    from aiosampler.runtime.job_signals import outlive_job_signals
    outlive_job_signals()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert output(code) == ["-15"]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_what_the_user_ignores_stays_ignored(name):
    code = f"""
    import signal
    from aiosampler.runtime.job_signals import outlive_job_signals
    signal.signal(signal.{name}, signal.SIG_IGN)
    outlive_job_signals()
    print(signal.getsignal(signal.{name}).name)
    """
    assert output(code) == ["SIG_IGN"]


def test_a_signal_that_was_held_back_comes_then():
    code = """
    import os, signal
    from aiosampler.runtime.job_signals import held_back
    signal.signal(signal.SIGUSR1, lambda number, frame: print("came"))
    with held_back():
        os.kill(os.getpid(), signal.SIGUSR1)
        print("not yet")
    """
    assert output(code) == ["not", "yet", "came"]
