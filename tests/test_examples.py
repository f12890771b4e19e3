"""Examples run, and the README's first program does."""

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


@pytest.mark.timeout(120)
def test_training_on_cartpole_ends_with_an_evaluation_and_a_picture(tmp_path):
    printed = run(str(ROOT / "examples/train_cartpole.py"), "--steps", "6000", cwd=tmp_path)
    match = re.search(r"evaluation: mean return (\d+\.\d) over 100 episodes", printed)
    assert match
    assert 8 < float(match[1]) <= 500
    assert (tmp_path / "train_cartpole.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_program_of_the_readme(tmp_path):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert program
    (tmp_path / "program.py").write_text(program[1])
    printed = run("program.py", cwd=tmp_path)
    assert printed.startswith("0 torch.Size([32, 16, 4])")
    assert printed.count("\n") == 10
