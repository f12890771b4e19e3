"""The command `doctor`: checks what samplers need of this machine, and says what follows from each finding."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from aiosampler.affinity import usable_cpu_count, usable_cpus
from aiosampler.memory.available import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REQUIRED = ("torch", "numpy", "gymnasium", "aiomultiprocess", "cloudpickle")
OPTIONAL = ("uvloop",)
LEAST_MEMORY = 1 << 30  # bytes; the processes of a small sampler have a few hundred MiB
LEAST_DESCRIPTORS = 1024  # the sampler process needs a few for each worker


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: What was checked.
        value: What was found.
        level: ``"ok"``, ``"note"`` if something is slower or less than it could be, ``"missing"`` if samplers need it.
        remark: What follows from it; empty if all is well.
    """

    name: str
    value: str
    level: str = "ok"
    remark: str = ""


def examine() -> list[Finding]:
    """Run all checks in this process."""
    return [*_software(), *_cpus(), *_memory(), *_processes(), *_devices()]


def report(findings: Sequence[Finding]) -> str:
    """The findings as lines of text; those that are not ok have a mark and a remark."""
    width = max(len(finding.name) for finding in findings)
    marks = {"ok": " ", "note": "-", "missing": "!"}
    lines = []
    for name, value, level, remark in findings:
        lines.append(f"{marks[level]} {name:{width}}  {value}")
        if remark:
            lines.append(f"  {'':{width}}  {remark}")
    return "\n".join(lines)


def _software() -> Iterator[Finding]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding("aiosampler", f"{_version('aiosampler') or 'not installed'}, Python {platform.python_version()}")
    yield Finding("system", system)
    for name in REQUIRED:
        version = _version(name)
        lacks = "" if version else f"install it: pip install {name}"
        yield Finding(name, version or "not found", "ok" if version else "missing", lacks)
    for name in OPTIONAL:
        version = _version(name)
        lacks = "" if version else "asyncio's own event loop is used in the sampler process, which is slower"
        yield Finding(name, version or "not found", "ok" if version else "note", lacks)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpus() -> Iterator[Finding]:
    mask, count, there = usable_cpus(), usable_cpu_count(), os.cpu_count() or 1
    less = (
        f"n_workers is {count} by default: the CPU mask or the container's quota allows no more"
        if count < there
        else ""
    )
    yield Finding("CPUs", f"{count} of {there}; mask {_ranges(mask)}", "note" if less else "ok", less)
    places = hasattr(os, "sched_setaffinity")
    yield Finding(
        "placement",
        "can be chosen" if places else "cannot be chosen",
        "ok" if places else "note",
        "" if places else "the argument affinity is refused here",
    )


def _ranges(numbers: Sequence[int]) -> str:
    """A text for sorted numbers, such as ``0-3, 8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _memory() -> Iterator[Finding]:
    free = available_memory()
    scarce = free is not None and free < LEAST_MEMORY
    yield Finding(
        "memory",
        "cannot be told" if free is None else f"{_bytes(free)} can be had, limits of containers heeded",
        "note" if scarce else "ok",
        "processes that run out of it are killed; use few workers, and small batches" if scarce else "",
    )
    if hasattr(os, "memfd_create"):
        yield Finding("shared memory", "memfd, which needs no room in /dev/shm")
        return
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    room = f", {_bytes(shutil.disk_usage(folder).free)} free" if folder else ""
    yield Finding(
        "shared memory",
        f"an unlinked file in {folder or 'the folder for temporary files'}{room}",
        "ok" if folder else "note",
        "" if folder else "batches may be written to a disk meanwhile",
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.0f} MiB"


def _processes() -> Iterator[Finding]:
    yield Finding("start methods", ", ".join(multiprocessing.get_all_start_methods()))
    for name, there, remark in (
        ("eventfd", hasattr(os, "eventfd"), "signals between processes are pipes, which cost a little more"),
        ("pidfd", hasattr(os, "pidfd_open"), "the end of a process is seen by a pipe, which its children keep open"),
    ):
        yield Finding(name, "yes" if there else "no", "ok" if there else "note", "" if there else remark)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= soft < LEAST_DESCRIPTORS
    more = LEAST_DESCRIPTORS if hard < 0 else min(hard, 1 << 16)
    yield Finding(
        "descriptors",
        f"{_limit(soft)}, at most {_limit(hard)}",
        "note" if few else "ok",
        f"hundreds of workers need more: ulimit -n {more}" if few else "",
    )
    if hasattr(resource, "RLIMIT_NPROC"):
        yield Finding("processes", f"{_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0])} of this user")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _devices() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    found = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    for kind in ("xpu", "mps", "npu"):
        module = getattr(torch, kind, None)
        if module is not None and hasattr(module, "device_count"):
            found += [f"{kind}:{i}" for i in range(module.device_count())]
    yield Finding("devices", ", ".join(["cpu", *found]))
