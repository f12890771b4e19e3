"""The programs of the README's section on other libraries run."""

import itertools
import re
from pathlib import Path

import pytest

import aiosampler
from aiosampler import CategoricalPgAgent
from tests.support.models import CleanRlShaped, LinearActorCritic

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = re.search(r"## With other libraries\n(.*?)\n## ", README, re.DOTALL)[1]
PROGRAMS = dict(re.findall(r"\*\*(.*?)\*\*.*?```python\n(.*?)```", SECTION, re.DOTALL))


@pytest.mark.parametrize("library", ["TorchRL", "Stable-Baselines3", "CleanRL", "Minari"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_program_of_the_readme_runs(library, tmp_path, monkeypatch):
    for package in re.findall(r"^(?:from|import) (\w+)", PROGRAMS[library], re.MULTILINE):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    agent = CategoricalPgAgent(LinearActorCritic)
    names = {name: getattr(aiosampler, name) for name in aiosampler.__all__}
    few = PROGRAMS[library].replace("sampler, 100", "sampler, 2")
    exec(few, {**names, "itertools": itertools, "agent": agent, "Agent": CleanRlShaped})
