"""`python -m aiosampler bench` and `tune` measure, print and draw."""

import functools
import itertools
import json
import re

import pytest

from aiosampler.__main__ import main
from aiosampler.commands import bench, peers

SHORT = ["--T=4", "--B=4", "--agent=random"]


def test_bench_prints_all_numbers_as_json_and_draws(tmp_path, capsys):
    picture = tmp_path / "bench.png"
    command = ["bench", "CartPole-v1", *SHORT, "--samplers=serial", "--windows=2", "--seconds=0.05", "--json"]
    assert main([*command, f"--picture={picture}"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["rows"]
    assert (told["env"], told["T"], told["B"], row["name"], row["error"]) == ("CartPole-v1", 4, 4, "serial", "")
    assert len(row["rates"]) == len(row["ceilings"]) == 2
    assert row["rate"] > 0 < row["share"]
    assert row["start_s"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "bench --picture=no/such/folder/bench.png",
            "--picture='no/such/folder/bench.png' cannot be written: No such file",
        ),
        ("tune --picture=bench.mp4", "matplotlib draws .*png.* and no mp4"),
        ("tune --seconds=nan", "--seconds must be a number above 0, got nan"),
        ("bench --seconds=inf", "--seconds must be a number above 0, got inf"),
        ("bench --device=cuda", "--device=cuda would be ignored: serial and cpu act on the CPU"),
        ("bench --samplers=serial --workers=3", "--workers=3 would be ignored: the serial sampler has none"),
    ],
)
def test_what_would_be_wrong_in_the_end_is_refused_before_anything_is_measured(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments.split(), "CartPole-v1", *SHORT])
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_sampler_that_fails_while_it_is_measured_ends_no_other(capsys, monkeypatch):
    rate = bench.rate

    async def failing(sampler, seconds):
        if sampler.statistics().batches and sampler.options.overlap:
            await sampler.aclose()
        return await rate(sampler, seconds)

    monkeypatch.setattr(bench, "rate", failing)
    command = ["bench", "CartPole-v1", *SHORT, "--samplers=serial", "--windows=2", "--seconds=0.05", "--json"]
    assert main(command) == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["rates"], row["error"]) == ([], "the sampler is closed")


@pytest.mark.slow  # AsyncVectorEnv starts processes, too
def test_bench_prints_a_table_with_peers_and_says_what_cannot_be_had(capsys, monkeypatch):
    there = peers.ways

    class Broken:
        def rate(self, seconds):
            raise OSError("gone")

        def close(self):
            raise OSError("gone already")

    def some(subject, workers):
        yield from itertools.islice(there(subject, workers), 2)
        yield peers.Way("another", functools.partial(peers._missing, "no_such_package"))
        yield peers.Way("broken", Broken)

    monkeypatch.setattr(bench, "ways", some)
    command = ["bench", "CartPole-v1", *SHORT, "--samplers=serial,alternating", "--workers=3", "--peers"]
    assert main([*command, "--windows=1", "--seconds=0.05"]) == 1  # as one of the samplers cannot be had
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"serial +[\d,]+ +[\d,]+ +\d+\.\d% +\d+\.\d\d s +(\d+ MiB|-)", lines[2])
    assert "n_workers" in lines[3]  # three cannot be in two groups
    assert [line.split("  ")[0] for line in lines[4:6]] == ["gymnasium sync", "gymnasium async"]
    assert "not installed: pip install no-such-package" in lines[6]
    assert lines[7].split() == ["broken", "OSError:", "gone"]


@pytest.mark.slow  # starts a number of samplers
def test_tune_recommends_a_call(tmp_path, capsys):
    picture = tmp_path / "tune.png"
    assert main(["tune", "CartPole-v1", *SHORT, "--seconds=2", f"--picture={picture}"]) == 0
    assert re.search(
        r"^recommended: Async\w+\('CartPole-v1', agent=agent, batch_T=4, batch_B=4",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert picture.exists()
