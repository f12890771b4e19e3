"""The example that trains with IMPALA on one machine does so on a cluster, by one argument more."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")
pytest.importorskip("matplotlib", reason="the extra examples is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples/train_impala.py"


@pytest.mark.slow  # a program, and the processes of two actors
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_example_of_one_machine_trains_on_a_cluster(cluster, tmp_path):
    node = cluster.add_node(num_cpus=4, object_store_memory=80_000_000)  # an actor has a CPU for each of its workers
    command = [sys.executable, str(EXAMPLE), "--steps", "4000", "--actors", "2"]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    cluster.remove_node(node)
    assert done.returncode == 0, done.stderr
    match = re.search(r"evaluation: mean return (\d+\.\d) over 100 episodes", done.stdout)
    assert match
    assert 8 < float(match[1]) <= 500
    assert (tmp_path / "train_impala.png").read_bytes().startswith(b"\x89PNG")
