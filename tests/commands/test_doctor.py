"""What `python -m aiosampler doctor` says of a machine."""

import json
import os
import resource
import subprocess
import sys
from importlib import metadata

import pytest

from aiosampler.__main__ import main
from aiosampler.affinity import usable_cpus
from aiosampler.commands import doctor
from aiosampler.commands.doctor import Finding, examine, report


def found(name):
    (finding,) = [finding for finding in examine() if finding.name == name]
    return finding


def test_the_command_prints_a_screen_and_succeeds_here():
    done = subprocess.run([sys.executable, "-m", "aiosampler", "doctor"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
    assert any(line.split()[:2] == ["torch", metadata.version("torch")] for line in lines)
    assert done.stderr == ""


def test_it_can_be_read_by_programs(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert findings["numpy"] == {"name": "numpy", "value": metadata.version("numpy"), "level": "ok", "remark": ""}
    assert findings["devices"]["value"].startswith("cpu")


def test_a_package_that_is_missing_fails_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    assert main(["doctor"]) == 1
    assert "! no-such-package" in (printed := capsys.readouterr().out)
    assert "pip install no-such-package" in printed


def test_cpus_that_the_mask_hides_are_a_note(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert found("CPUs").level == "note"
    assert f" of 64; mask {doctor._ranges(usable_cpus())}" in found("CPUs").value


@pytest.mark.parametrize(
    ("numbers", "text"), [((0,), "0"), ((0, 1), "0-1"), ((0, 1, 2, 3, 8), "0-3, 8"), ((1, 3, 5), "1, 3, 5")]
)
def test_masks_are_told_as_ranges(numbers, text):
    assert doctor._ranges(numbers) == text


def test_what_a_system_lacks_is_told(monkeypatch):
    for name in ("eventfd", "pidfd_open", "memfd_create", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    monkeypatch.setattr(doctor, "available_memory", lambda: 300 << 20)
    notes = {finding.name: finding for finding in examine() if finding.level == "note"}
    assert notes["eventfd"].value == notes["pidfd"].value == "no"
    assert notes["descriptors"].remark == "hundreds of workers need more: ulimit -n 4096"
    assert notes["memory"].value.startswith("300 MiB")
    assert notes["placement"].remark == "the argument affinity is refused here"
    assert found("shared memory").value.startswith("an unlinked file in ")


def test_the_report_marks_what_asks_for_something():
    findings = [Finding("a", "1"), Finding("long name", "2", "note", "slower"), Finding("b", "3", "missing", "install")]
    assert report(findings).splitlines() == [
        "  a          1",
        "- long name  2",
        "             slower",
        "! b          3",
        "             install",
    ]
