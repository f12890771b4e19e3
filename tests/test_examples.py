"""Examples run, and the README's first program does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, cwd):
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_on_cartpole_ends_with_an_evaluation_and_a_picture(tmp_path):
    printed = run(str(ROOT / "examples/train_cartpole.py"), "--steps", "6000", cwd=tmp_path)
    match = re.search(r"evaluation: mean return (\d+\.\d) over 100 episodes", printed)
    assert match
    assert 8 < float(match[1]) <= 500
    assert (tmp_path / "train_cartpole.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_ppo", "train_recurrent_ppo", "train_impala", "train_sac"])
def test_an_example_learns_draws_and_evaluates(name, tmp_path):
    printed = run(str(ROOT / f"examples/{name}.py"), "--steps", "2000", "--seed", "1", cwd=tmp_path)
    match = re.search(r"evaluation: mean return (-?\d+\.\d) over 100 episodes", printed)
    assert match
    assert -1700 < float(match[1]) <= 500
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_policy_learns_to_ask_a_service(tmp_path):
    printed = run(str(ROOT / "examples/train_agentic.py"), "--steps", "1500", "--latency", "0.001", cwd=tmp_path)
    assert re.search(r"evaluation: \d\.\d\d of 100 games were won", printed)
    assert (tmp_path / "train_agentic.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_pong_is_learned_from_frames_that_are_stored_once(tmp_path):
    pytest.importorskip("ale_py", reason="the extra atari is not installed")
    printed = run(str(ROOT / "examples/train_atari.py"), "--steps", "1000", "--games", "1", cwd=tmp_path)
    assert re.search(r"evaluation: mean score -?\d+\.\d over 1 games", printed)
    assert (tmp_path / "train_atari.png").read_bytes().startswith(b"\x89PNG")


def test_the_overlap_of_groups_is_drawn_and_traced(tmp_path):
    command = ("--T", "10", "--batches", "2", "--picture", "overlap.png")
    printed = run(str(ROOT / "examples/overlap.py"), *command, cwd=tmp_path)
    assert [line.split("  ")[0] for line in printed.splitlines()[:3]] == ["plain", "alternating", "no overlap"]
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")
    for name in ("plain", "alternating", "no_overlap"):
        assert json.loads((tmp_path / f"overlap_{name}.json").read_text())["traceEvents"]


@pytest.mark.parametrize("ceiling", [(), pytest.param(("--busy",), marks=pytest.mark.slow)], ids=["of-one", "busy"])
def test_the_benchmark_prints_a_line_for_each_sampler(ceiling, tmp_path):
    samplers = "--samplers=serial,cpu,gpu,alternating,no-overlap"
    command = ("--windows=1", "--seconds=0.1", "--T=8", *ceiling, "--start-method=fork", samplers)
    printed = run(str(ROOT / "examples/benchmark.py"), *command, cwd=tmp_path)
    assert len(re.findall(r"cartpole .*share \d+\.\d%", printed)) == 5


@pytest.mark.slow
def test_the_benchmark_of_vector_environments_prints_a_line_for_each(tmp_path):
    command = ("--windows=1", "--seconds=0.1", "--B=4", "--start-method=fork", "--worlds=waiting,cartpole")
    printed = run(str(ROOT / "examples/benchmark_vector.py"), *command, cwd=tmp_path)
    assert "times AsyncVectorEnv" in printed
    assert "times ceiling of CartPoleVectorEnv" in printed


@pytest.mark.slow
def test_the_benchmark_of_turns_prints_a_line_for_each_sampler_and_length(tmp_path):
    command = ("--windows=1", "--batches=2", "--T=4,8", "--samplers=cpu,gpu", "--start-method=fork")
    printed = run(str(ROOT / "examples/benchmark_turn.py"), *command, cwd=tmp_path)
    assert len(re.findall(r"^(?:cpu|gpu) +T=[48] B=16 W=2: turn +-?[\d,]+ us", printed, re.MULTILINE)) == 4


@pytest.mark.slow
def test_the_benchmark_of_growth_prints_a_line_for_each_sampler_and_number_and_draws(tmp_path):
    command = ("--axes=T", "--most=2", "--samplers=serial", "--seconds=0.01", "--picture=growth.png")
    printed = run(str(ROOT / "examples/benchmark_growth.py"), *command, cwd=tmp_path)
    assert re.match(r"serial time steps of a batch +1: \S+  2: \S+\n", printed)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_benchmark_of_starting_prints_a_line_for_each_sampler(tmp_path):
    command = ("--workers", "2", "--samplers", "cpu", "--start-methods", "forkserver,fork")
    printed = run(str(ROOT / "examples/benchmark_start.py"), *command, cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in printed[1:]] == ["cpu", "cpu", "AsyncVectorEnv"]
    assert all(re.search(r"( +\d+\.\d\d s){3} +\d+ MiB", line) for line in printed[1:])


@pytest.mark.slow
def test_ppo_is_compared_with_that_of_stable_baselines(tmp_path):
    pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")
    printed = run(str(ROOT / "examples/compare_ppo.py"), "--tasks", "cartpole", "--steps", "512", cwd=tmp_path)
    assert re.findall(r"^  (\S+)", printed, re.MULTILINE) == ["SB3,", "aiosampler", "times"]
    assert len(re.findall(r"start +\d+\.\d+, collect +\d+\.\d+, train +\d+\.\d+", printed)) == 2


@pytest.mark.slow
def test_an_agent_with_masks_takes_no_illegal_action(tmp_path):
    printed = run(str(ROOT / "examples/legal_actions.py"), cwd=tmp_path)
    assert printed == "0 of 10240 actions were illegal\n"


def test_the_first_program_of_the_readme(tmp_path):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert program
    (tmp_path / "program.py").write_text(program[1])
    printed = run("program.py", cwd=tmp_path)
    assert printed.startswith("0 torch.Size([32, 16, 4])")
    assert printed.count("\n") == 10


def test_the_normaliser_of_the_readme(tmp_path):
    program = re.search(
        r"```python\n((?:(?!```).)*class Normalized.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert program
    (tmp_path / "program.py").write_text(program[1])
    assert run("program.py", cwd=tmp_path) == f"tensor({3 * 32 * 8 + 1e-4:.4f})\n"


def test_nothing_is_lost_but_what_is_marked_when_a_simulator_drops_connections_and_is_killed(tmp_path):
    command = ("--batches=10", "--T=16", "--B=8", "--step-timeout=0.5", "--drop=0.01", "--slow=0.002", "--kill")
    printed = run(str(ROOT / "examples/remote_simulator.py"), *command, cwd=tmp_path)
    steps, rows, marked = map(int, re.findall(r"(\d+) of (\d+) rows are steps, (\d+) are marked", printed)[0])
    assert steps + marked == rows == 1280
    assert marked > 0
