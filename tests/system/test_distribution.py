"""What is handed on: the wheel, the source distribution, and the pages of the interface."""

import os
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # they build, in environments of their own


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.timeout(240)  # it waits for a registry
def test_a_wheel_that_is_built_from_the_source_distribution_works_alone(tmp_path):
    pytest.importorskip("build", reason="the package `build` is not installed")
    run(sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT))  # the wheel from the source distribution
    (source,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "aiosampler/py.typed", "examples/train_ppo.py", "tests/conftest.py"} <= names
    # An empty environment, which finds the dependencies where they are, so that nothing is downloaded
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "empty"))
    python = str(tmp_path / "empty/bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", str(wheel))
    there = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    assert not (there / "tests").exists()
    (metadata,) = there.glob("aiosampler-*.dist-info/METADATA")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {"License-Expression: MIT", f"Version: {version}"} <= set(metadata.read_text().splitlines())
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text()
    assert "Permission is hereby granted, free of charge" in metadata.read_text()
    (there / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    program = """
import asyncio, aiosampler
from aiosampler import AsyncCpuSampler, RandomAgent
async def main():
    async with AsyncCpuSampler("CartPole-v1", agent=RandomAgent(), batch_T=4, batch_B=4, n_workers=2) as sampler:
        print(aiosampler.__file__, (await sampler.obtain_samples()).stats.env_steps)
asyncio.run(main())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = run(python, "-c", program, cwd=tmp_path, env=environment).stdout.split()
    assert printed == [str(there / "aiosampler/__init__.py"), "16"]


#: Modules that are imported by their names, what each needs, and what its page has.
EXTRAS = {
    "aiosampler.ray": ("ray", "RaySampler.obtain_samples"),
    "aiosampler.interop.cleanrl": ("torch", "CleanRlAgent"),
    "aiosampler.interop.minari": ("minari", "to_episode_buffer"),
    "aiosampler.interop.sb3": ("stable_baselines3", "Sb3Agent"),
    "aiosampler.interop.torchrl": ("tensordict", "to_tensordict"),
}


def test_the_pages_of_the_interface_are_made_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed")
    extras = {module: name for module, (needed, name) in EXTRAS.items() if find_spec(needed)}
    done = run(sys.executable, "-m", "pdoc", "aiosampler", *extras, "-d", "google", "-o", str(tmp_path), cwd=ROOT)
    assert done.stderr == ""
    page = (tmp_path / "aiosampler.html").read_text()
    for name in ("AsyncCpuSampler", "Samples", "CpuBudget", "AgentInputs", "evaluate_agent"):
        assert f'id="{name}"' in page or f'.{name}"' in page, name
    for module, name in extras.items():
        assert f'id="{name}"' in (tmp_path / f"{module.replace('.', '/')}.html").read_text()
