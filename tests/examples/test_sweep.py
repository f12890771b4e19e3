"""The sweep goes on after it was killed, and past runs that fail."""

import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

SWEEP = str(Path(__file__).parents[2] / "examples/sweep.py")


def stored(database):
    if not database.exists():
        return 0
    connection = sqlite3.connect(database)
    try:
        return len(connection.execute("SELECT DISTINCT learning_rate, seed FROM curve").fetchall())
    except sqlite3.OperationalError:  # no table yet
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--learning_rates=0.1;0.2", "--learning_rates must be numbers with commas between them, got '0.1;0.2'"),
        ("--seeds=0", "--seeds must be at least 1, got 0"),
        ("--cpus=100000", "--cpus=100000 is more than this process may use"),
        ("--database=no/such/folder/sweep.sqlite", "cannot write 'no/such/folder/sweep.sqlite'"),
    ],
)
def test_bad_arguments_are_told_before_anything_runs(argument, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SWEEP, argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(SWEEP, run_name="__main__")
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow  # a sampler for each of several runs, in two programs
def test_a_sweep_that_is_killed_goes_on_and_a_run_that_fails_ends_no_other(tmp_path):
    database = tmp_path / "sweep.sqlite"
    command = [sys.executable, SWEEP, "--learning_rates=0.003,-1", "--seeds=2", "--steps=600"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not stored(database):
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = stored(database)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    lines = again.stdout.splitlines()
    assert lines[0] == f"{before} of 4 runs were there already"
    failed = sorted(line for line in lines if line.startswith("failed: "))
    assert [line.split(":")[1] for line in failed] == [f" learning rate -1, seed {seed}" for seed in (0, 1)]
    assert again.returncode == 1
    assert stored(database) == 2
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
