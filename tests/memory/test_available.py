"""What memory there is: the machine's, and what the limits of containers leave, however they are nested."""

import pytest

from aiosampler.memory.available import available_memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path):
    """Writes a machine of 1000 MiB with control groups; returns what it takes to ask for its memory."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {2000 * 1024} kB\nMemAvailable:   {1000 * 1024} kB\n")

    def write(own, groups):
        (proc / "self" / "cgroup").write_text(own)
        for name, files in groups.items():
            (cgroups / name).mkdir(parents=True, exist_ok=True)
            for file, value in files.items():
                (cgroups / name / file).write_text(f"{value}\n")
        return proc, cgroups

    return write


def v2(limit, used, files=0):
    stat = f"anon {(used - files) * MIB}\ninactive_file {files * MIB // 4}\nactive_file {files * MIB * 3 // 4}"
    return {
        "memory.max": limit if limit == "max" else limit * MIB, "memory.current": used * MIB, "memory.stat": stat,
    }  # fmt: skip


def v1(limit, used, files=0):
    stat = f"cache {files * MIB}\ntotal_inactive_file {files * MIB}\ntotal_active_file 0"
    return {
        "memory.limit_in_bytes": limit * MIB, "memory.usage_in_bytes": used * MIB, "memory.stat": stat,
    }  # fmt: skip


OWN = "0::/a/b\n"
OWN_V1 = "5:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n"


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/\n", {}, 1000),
        (OWN, {"a": v2("max", 10), "a/b": v2("max", 5)}, 1000),
        (OWN, {"a": v2(500, 100), "a/b": v2("max", 50)}, 400),  # the limit of the slice around it counts
        (OWN, {"a": v2(500, 100), "a/b": v2(300, 50)}, 250),
        (OWN, {"a/b": v2(500, 400, files=350)}, 450),  # cached files are given back
        ("0::/../..\n", {".": v2(300, 100)}, 200),  # a container that sees its own group as the root
        (OWN_V1, {"memory/docker/1": v1(400, 350, files=150), "memory": v1(2**43, 900)}, 200),
        (OWN_V1, {"memory": v1(300, 100)}, 200),
        ("", {}, 1000),
    ],
)
def test_the_least_of_all_limits_counts(machine, own, groups, expected):
    proc, cgroups = machine(own, groups)
    assert available_memory(proc, cgroups) == expected * MIB


def test_where_nothing_is_told_there_is_no_answer(tmp_path):
    assert available_memory(tmp_path, tmp_path) is None


def test_this_machine_has_some():
    assert available_memory() > MIB
