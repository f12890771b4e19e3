"""How fast samplers of an environment are, beside what the machine could do at best, all in one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from aiosampler.affinity import usable_cpu_count
from aiosampler.commands.candidates import Candidate, Subject, memory_of, processes_of
from aiosampler.commands.ceilings import Bounds, Ceiling
from aiosampler.commands.peers import Peer, ways
from aiosampler.errors import ConfigError
from aiosampler.specs.context import NUM_ENVS, takes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass
class Row:
    """What was measured of one way to sample.

    Attributes:
        name: Such as ``cpu x 2``.
        rates: Steps per second of each window.
        ceilings: Of the same windows; none of vector loops, and of environments of coroutines.
        start_s: Seconds until it had started, where the fork server was there already.
        memory_mib: Of its processes, what they share divided among them; None where that is not told.
        error: Why there is nothing of it.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    start_s: float | None = None
    memory_mib: float | None = None
    error: str = ""

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def share(self) -> float | None:
        """Of the ceiling: the median over the windows."""
        if not self.ceilings or not self.rates:
            return None
        pairs = zip(self.rates, self.ceilings, strict=False)
        return statistics.median(rate / ceiling.steps_per_second for rate, ceiling in pairs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the raw numbers."""
        return {
            **asdict(self),
            "ceilings": [each._asdict() for each in self.ceilings],
            "rate": self.rate,
            "share": self.share,
        }


async def rate(sampler: Any, seconds: float) -> float:
    """Steps per second of a sampler over some seconds, without what it had collected ahead."""
    await sampler.obtain_samples()  # what was collected while something else was measured
    await sampler.obtain_samples()
    steps, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not steps:
        steps += (await sampler.obtain_samples()).stats.env_steps
    return steps / elapsed


async def bench(
    subject: Subject, candidates: Sequence[Candidate], *, peers: bool, windows: int, seconds: float
) -> list[Row]:
    """Measure samplers in turn, so that a machine which changes its speed changes it for all.

    Args:
        subject: What is sampled.
        candidates: Ways to sample it.
        peers: Also what other libraries have, with the same agent.
        windows: How many times each is measured.
        seconds: Of one window.

    Raises:
        ConfigError: `peers` are for single environments that are not awaited.
    """
    if peers and (subject.awaits or takes(subject.env_fn, NUM_ENVS)):
        raise ConfigError(f"--peers is for single environments with ordinary methods, {subject.env!r} makes others")
    torch.set_num_threads(1)  # as in a sampler's processes
    rows = {candidate: Row(candidate.name) for candidate in candidates}
    others: list[Row] = []
    loops: dict[str, Peer] = {}
    async with contextlib.AsyncExitStack() as opened:
        samplers = {}
        await warm_up(subject, candidates[0])
        for candidate, row in rows.items():
            tell(f"starting {row.name}")
            began = time.perf_counter()
            try:
                samplers[candidate] = sampler = await opened.enter_async_context(candidate.make(subject))
            except Exception as exc:
                row.error = str(exc)
                continue
            row.start_s = time.perf_counter() - began
            if (await _measured(row, sampler, seconds / 2)) is None:
                del samplers[candidate]
                continue
            row.memory_mib = memory_of(processes_of(sampler))
        workers = max((candidate.n_workers or 1 for candidate in candidates), default=1)
        for name, make in ways(subject, workers) if peers else ():
            tell(f"starting {name}")
            others.append(row := Row(name))
            began = time.perf_counter()
            try:
                loops[name] = opened.enter_context(_closing(make()))
            except Exception as exc:  # of that library, or that it is not there
                row.error = str(exc)
                continue
            row.start_s = time.perf_counter() - began
        bounds = (
            None if subject.awaits else opened.enter_context(contextlib.closing(Bounds(subject, usable_cpu_count())))
        )
        for window in range(windows):
            for candidate, sampler in [*samplers.items()]:
                tell(f"window {window + 1} of {windows}: {candidate.name}")
                if bounds is not None:
                    measured = await asyncio.to_thread(
                        bounds.measure, candidate.kind, candidate.n_workers or 1, seconds
                    )
                    rows[candidate].ceilings.append(measured)
                if (got := await _measured(rows[candidate], sampler, seconds)) is None:
                    del samplers[candidate]
                    continue
                rows[candidate].rates.append(got)
                await asyncio.sleep(0.05 + 1.5 * subject.T * subject.B / got)  # until it has collected ahead, and rests
            for row in others:
                if row.error:
                    continue
                tell(f"window {window + 1} of {windows}: {row.name}")
                try:
                    row.rates.append(await asyncio.to_thread(loops[row.name].rate, seconds))
                except Exception as exc:  # the others go on
                    row.error = f"{type(exc).__name__}: {exc}"
    tell("")
    return [*rows.values(), *others]


async def _measured(row: Row, sampler: Any, seconds: float) -> float | None:
    """The rate of a sampler; None if it has failed, which its row tells then: the others go on."""
    try:
        return await rate(sampler, seconds)
    except Exception as exc:
        row.error = str(exc)
        return None


@contextlib.contextmanager
def _closing(peer: Peer) -> Iterator[Peer]:
    """Close it at the end; one whose processes have failed may not be able to."""
    try:
        yield peer
    finally:
        with contextlib.suppress(Exception):
            peer.close()


async def warm_up(subject: Subject, candidate: Candidate) -> None:
    """Have the fork server import all that samplers need, which it does once, so it counts for none of them."""
    tell("importing torch for all samplers")
    with contextlib.suppress(Exception):  # told when it is measured
        async with candidate.make(subject):
            pass


def tell(text: str) -> None:
    """Show how far it is, on a line of its own that the next one replaces; nothing where nobody looks."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def table(subject: Subject, rows: Sequence[Row]) -> str:
    """The rows as text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{subject.env}, T={subject.T}, B={subject.B}, agent {subject.agent}, {usable_cpu_count()} CPUs"]
    lines.append(f"{'':{width}}  {'steps/s':>10}  {'ceiling':>10}  {'share':>6}  {'start':>7}  {'memory':>9}")
    for row in rows:
        if row.error:
            lines.append(f"{row.name:{width}}  {row.error.splitlines()[0]}")
            continue
        best = statistics.median(each.steps_per_second for each in row.ceilings) if row.ceilings else None
        cells = (
            f"{row.rate:>10,.0f}",
            "-".rjust(10) if best is None else f"{best:>10,.0f}",
            "-".rjust(6) if row.share is None else f"{row.share:>6.1%}",
            "-".rjust(7) if row.start_s is None else f"{row.start_s:>5.2f} s",
            "-".rjust(9) if row.memory_mib is None else f"{row.memory_mib:>5.0f} MiB",
        )
        lines.append("  ".join((f"{row.name:{width}}", *cells)))
    return "\n".join(lines)


def check_picture(path: str) -> None:
    """Refuse a picture that cannot be drawn, before anything is measured for it.

    Raises:
        ConfigError: There is no matplotlib, it knows no such kind of picture, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--picture needs matplotlib: pip install matplotlib") from None
    kinds = Figure().canvas.get_supported_filetypes()
    if (kind := os.path.splitext(path)[1].removeprefix(".")) and kind.lower() not in kinds:
        raise ConfigError(f"--picture={path!r}: matplotlib draws {', '.join(sorted(kinds))}, and no {kind}")
    there = os.path.exists(path)
    try:
        open(path, "ab").close()
    except OSError as exc:
        raise ConfigError(f"--picture={path!r} cannot be written: {exc.strerror}") from exc
    if not there:
        os.unlink(path)  # if measuring fails, nothing is left behind


def draw(path: str, subject: Subject, rows: Sequence[Row]) -> None:
    """Draw the rows as bars, with a mark for each ceiling; `check_picture` was called before."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.rates]
    figure = Figure(figsize=(8, 1 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    spread = [[row.rate - min(row.rates) for row in shown], [max(row.rates) - row.rate for row in shown]]
    axes.barh(places, [row.rate for row in shown], xerr=spread, color="#246bce", capsize=3)
    for place, row in zip(places, shown, strict=True):
        if row.ceilings:
            best = statistics.median(each.steps_per_second for each in row.ceilings)
            axes.plot([best, best], [place - 0.4, place + 0.4], color="#d9822b", linewidth=2)
    axes.set_yticks(places, [row.name for row in shown])
    axes.invert_yaxis()
    axes.set(xlabel="steps per second; orange: the ceiling", title=f"{subject.env}, T={subject.T}, B={subject.B}")
    figure.savefig(path)
