"""How much memory is available to this process, within the limits of its container."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60  # version 1 of control groups writes a number above this where there is no limit


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be allocated without swapping; None if the system does not tell.

    The minimum of what the machine has available and what is left of the limit of each control group that this process
    is in. File caches, which the kernel frees when memory is needed, count as available in both.

    Args:
        proc: Mount point of procfs.
        cgroups: Mount point of the control groups.
    """
    available: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (proc / "meminfo").read_text().splitlines()
        available.extend(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for folder, limit, used, prefix in _groups(proc, cgroups):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            most = int((folder / limit).read_text())
            if most < _UNLIMITED:
                available.append(most - int((folder / used).read_text()) + _file_pages(folder, prefix))
    return min(available, default=None)


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, str, str, str]]:
    """The folders of the control groups that this process is in, and the names of their files; versions 1 and 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = cgroups, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        folder = root / path.lstrip("/")
        yield (root, *names)  # in a container, its own group may be mounted as the root
        while folder != root and root in folder.parents:
            yield (folder, *names)
            folder = folder.parent


def _file_pages(folder: Path, prefix: str) -> int:
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    facts = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return sum(int(fact[1]) for fact in facts if fact[0] in wanted)
