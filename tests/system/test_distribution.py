"""What is handed on: the wheel, the source distribution, and the pages of the interface."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # they build, in environments of their own


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_wheel_that_is_built_from_the_source_distribution_works_alone(tmp_path):
    pytest.importorskip("build", reason="the package `build` is not installed")
    run(sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT))  # the wheel from the source distribution
    (source,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "aiosampler/py.typed", "examples/train_ppo.py", "tests/conftest.py"} <= names
    there = tmp_path / "there"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(there), str(wheel))
    assert not (there / "tests").exists()
    program = """
import asyncio, aiosampler
from aiosampler import AsyncCpuSampler, RandomAgent
async def main():
    async with AsyncCpuSampler("CartPole-v1", agent=RandomAgent(), batch_T=4, batch_B=4, n_workers=2) as sampler:
        print(aiosampler.__file__, (await sampler.obtain_samples()).stats.env_steps)
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(there)}
    printed = run(sys.executable, "-c", program, cwd=tmp_path, env=environment).stdout.split()
    assert printed == [str(there / "aiosampler/__init__.py"), "16"]


def test_the_pages_of_the_interface_are_made_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed")
    done = run(sys.executable, "-m", "pdoc", "aiosampler", "-d", "google", "-o", str(tmp_path), cwd=ROOT)
    assert done.stderr == ""
    page = (tmp_path / "aiosampler.html").read_text()
    for name in ("AsyncCpuSampler", "Samples", "CpuBudget", "AgentInputs", "evaluate_agent"):
        assert f'id="{name}"' in page or f'.{name}"' in page, name
