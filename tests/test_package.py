"""The package as a whole: what it exports, what importing it does, which way its imports point."""

import ast
import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiosampler

ROOT = Path(aiosampler.__file__).parent
TESTS = Path(__file__).parent
LAYERS = [
    "errors",
    "affinity",
    "pickling",
    "specs",
    "payload",
    "interfaces",
    "options",
    "signals",
    "memory",
    "runtime",
    "agents",
    "collectors",
    "workers",
    "servers",
    "engines",
    "samplers",
    "ray",
    "interop",
    "commands",
    "__main__",
]


def public_names():
    """The public names and their modules, as type checkers read them."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname: node.module for node in imports for alias in node.names}


def test_every_public_name_resolves_and_the_lists_agree():
    assert aiosampler.__all__ == sorted(aiosampler.__all__)
    static = public_names()
    assert set(aiosampler.__all__) == set(static)  # what type checkers see is what there is
    for name, module in static.items():
        assert getattr(aiosampler, name).__name__ == name
        assert getattr(aiosampler, name) is getattr(importlib.import_module(module), name)
    assert dir(aiosampler) == aiosampler.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        aiosampler.nonsense  # noqa: B018 - it is looked up


def test_the_version_is_that_of_the_distribution():
    assert aiosampler.__version__ == importlib.metadata.version("aiosampler")


def test_a_type_checker_sees_every_public_name_and_no_other(tmp_path):
    program = tmp_path / "program.py"
    imports = "".join(f"from aiosampler import {name}\n" for name in [*public_names(), "Nonsense"])
    program.write_text(imports)
    options = ["--strict", "--follow-imports=skip", "--cache-dir", str(tmp_path), "--config-file", os.devnull]
    command = [sys.executable, "-m", "mypy", *options, str(program), str(ROOT / "__init__.py")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent).stdout
    (error,) = [line for line in said.splitlines() if "[attr-defined]" in line]
    assert '"Nonsense"' in error


def imports(path, *, types=True):
    """The modules that a file imports; without `types`, those alone that are imported when it runs."""
    tree = ast.parse(path.read_text())
    if not types:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and is_type_checking(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_type_checking(test):
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def test_imports_point_down_only():
    checked = 0
    for path in ROOT.rglob("*.py"):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        for module in imports(path, types=layer != "interfaces"):  # which names types of all layers, and has no code
            if module.startswith("aiosampler."):
                checked += 1
                assert LAYERS.index(module.split(".")[1]) <= LAYERS.index(layer), f"{path} imports {module}"
            assert module != "aiosampler"
    assert checked > 50


def test_the_name_of_a_file_occurs_once():
    names = [path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").glob("*.py")), ids=lambda path: path.stem)
def test_what_runs_processes_knows_nothing_of_learning(path):
    ours = [module for module in imports(path, types=False) if module.startswith("aiosampler.")]
    signals = ("aiosampler.signals.fence", "aiosampler.signals.waiter")
    allowed = ("aiosampler.errors", "aiosampler.pickling", "aiosampler.runtime", *signals)
    assert [module for module in ours if not module.startswith(allowed)] == []
    for module in set(imports(path)) - set(ours):
        if module.startswith("aiosampler."):
            assert module == "aiosampler.interfaces" or module.startswith(allowed), f"{path} names types of {module}"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_imports_another_and_each_is_where_its_room_is(path):
    for module in imports(path):
        assert not module.startswith("tests") or module.startswith("tests.support.")
    room = path.relative_to(TESTS).parts[0]
    assert room.endswith(".py") or room in {*LAYERS, "examples", "support", "system"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_torch_and_starts_nothing():
    code = """
import sys, threading, os, signal, asyncio
before = dict(os.environ), signal.getsignal(signal.SIGINT)
import aiosampler
print("torch" in sys.modules, "numpy" in sys.modules, threading.active_count())
aiosampler.TrajInfo, aiosampler.ConfigError, aiosampler.environment_seed
print("torch" in sys.modules)
aiosampler.AsyncSerialSampler
import torch
after = dict(os.environ), signal.getsignal(signal.SIGINT)
print(torch.cuda.is_initialized(), threading.active_count(), before == after)
"""
    assert run(code) == ["False", "False", "1", "False", "False", "1", "True"]


@pytest.mark.parametrize(
    "module",
    [
        "collectors.collector",
        "workers.served_acting",
        "workers.worker_process",
        "runtime.isolation",
        "runtime.process",
        "memory.arena",
        "signals.counter",
    ],
)
def test_what_workers_without_an_agent_need_loads_no_torch(module):
    assert run(f"import sys, aiosampler.{module}; print('torch' in sys.modules)") == ["False"]


def test_the_type_hints_ship():
    assert (ROOT / "py.typed").exists()
