"""What speaks against forking after an import: tried in an interpreter of its own, which has one thread."""

import os
import subprocess
import sys

import pytest

from aiosampler.runtime.isolation import THREAD_VARIABLES

CODE = """
import sys
import numpy.random
from aiosampler.runtime.preloading import import_all
print(import_all(["json.tool", "world"], shared=SHARED))
print("world" in sys.modules)
"""


def tell(tmp_path, source, *, shared=False):
    (tmp_path / "world.py").write_text(source)
    code = CODE.replace("SHARED", str(shared))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
    )  # fmt: skip
    return done.stdout.splitlines()


HINDRANCES = {
    "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()": "started 1 thread",
    "raise SystemExit": "raised SystemExit",
    "import nonsense": "raised ModuleNotFoundError",
    "file = open(__file__)": "left a file or a socket open",
    "import subprocess; program = subprocess.Popen(['sleep', '0.1'])": "started a process",
    "import random; mine = {'generators': [random.Random()]}": "made a random generator",
    "import numpy as np\nclass World: rng = np.random.default_rng()": "made a random generator",
    "import numpy as np; rng = np.random.RandomState(3)": "made a random generator",
}


@pytest.mark.parametrize("source", HINDRANCES)
def test_what_must_not_be_shared_is_found_and_told(source, tmp_path):
    told = tell(tmp_path, source)
    assert told[0] == f"Hindrance(module='world', why={HINDRANCES[source]!r})"


def test_other_modules_are_imported(tmp_path):
    source = "import random, numpy as np; rng = random.SystemRandom(); x = np.random.rand(); random.seed(4)"
    assert tell(tmp_path, source) == ["None", "True"]


def test_what_libraries_draw_from_is_theirs(tmp_path):
    assert tell(tmp_path, "import random; rng = random.Random()", shared=True) == ["None", "True"]
