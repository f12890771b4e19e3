"""Which sampler is the fastest for an environment and an agent: found by trying, within a time that is given."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch

from aiosampler.affinity import usable_cpu_count
from aiosampler.commands.bench import Row, rate, tell, warm_up
from aiosampler.commands.candidates import LOCAL, Candidate, Subject, memory_of, processes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_WINDOW_S = 0.2
FINALISTS = 3
PLAIN_SHARE, PLACED_SHARE = 0.5, 0.7  # of the time, until which those are tried


def candidates_for(subject: Subject, cpus: int) -> list[Candidate]:
    """What may be worth trying: each kind, with workers that the environments can be divided among, likely ones first.

    Args:
        subject: What is to be sampled.
        cpus: That may be used.
    """
    counts = list(dict.fromkeys(n for n in (cpus, 2 * cpus, max(1, cpus // 2)) if n <= subject.B))
    if subject.awaits:  # those of a worker wait together, so few workers are enough
        counts = [1, *(n for n in counts if n > 1)]

    def likely() -> Iterator[Candidate]:
        yield Candidate("serial")
        for n in counts:
            for kind in ("cpu", "gpu", "alternating", "no-overlap", "own-pace"):
                if subject.device != "cpu" and kind in LOCAL:
                    continue
                if kind in ("alternating", "no-overlap") and (n % 2 or n > subject.B // 2 * 2 or subject.B % 2):
                    continue
                yield Candidate(kind, n)

    return list(likely())


async def tune(subject: Subject, seconds: float) -> list[Row]:
    """Try what is likely once, then the best of it in other placements, and the best of all twice more.

    Each is tried in a sampler of its own. Placements are tried of the fastest, and of the fastest with groups.

    Args:
        subject: What is sampled.
        seconds: For all of it, once the first has been started; each is measured for a short time at least.

    Returns:
        A row for each that was tried, the fastest first.
    """
    torch.set_num_threads(1)
    rows: dict[Candidate, Row] = {}
    plain = candidates_for(subject, usable_cpu_count())
    await warm_up(subject, plain[0])
    began = time.perf_counter()

    def ranked() -> list[Candidate]:
        return sorted((each for each in rows if rows[each].rates), key=lambda each: -rows[each].rate)

    async def attempt(there: list[Candidate], until: float) -> None:
        """Measure each once more, for even parts of the time that is left then."""
        for k, candidate in enumerate(there):
            left = until - (time.perf_counter() - began)
            if left <= 0 and rows:
                break
            told = f"{k + 1} of {len(there)}, {time.perf_counter() - began:.0f} of {seconds:.0f} s"
            tell(f"{candidate.name}{' again' if candidate in rows else ''}: {told}")
            row = rows.setdefault(candidate, Row(candidate.name))
            await _measure(subject, candidate, row, max(LEAST_WINDOW_S, left / (len(there) - k) / 3))

    await attempt(plain, seconds * PLAIN_SHARE)
    fastest = [*ranked()[:1], *[each for each in ranked() if each.alternates][:1]]
    await attempt(
        [placed for each in dict.fromkeys(fastest) for placed in each.placed(subject)], seconds * PLACED_SHARE
    )
    finalists = ranked()[:FINALISTS]
    for share in (1 - (1 - PLACED_SHARE) / 2, 1):
        await attempt(finalists, seconds * share)
    tell("")
    return [rows[each] for each in sorted(rows, key=lambda each: (each not in finalists, -rows[each].rate))]


async def _measure(subject: Subject, candidate: Candidate, row: Row, seconds: float) -> None:
    began = time.perf_counter()
    try:
        async with candidate.make(subject) as sampler:
            row.start_s = time.perf_counter() - began
            await rate(sampler, seconds / 3)
            row.rates.append(await rate(sampler, seconds))
            row.memory_mib = memory_of(processes_of(sampler))
    except Exception as exc:  # of whatever it is that cannot be had so; the others can
        row.error = str(exc)


def recommendation(subject: Subject, rows: list[Row]) -> str:
    """The call of the fastest, and how sure that is.

    Args:
        subject: What was sampled.
        rows: Of `tune`.
    """
    plain = candidates_for(subject, usable_cpu_count())
    tried = {each.name: each for candidate in plain for each in (candidate, *candidate.placed(subject))}
    best = next((row for row in rows if row.rates), None)
    if best is None:
        return "nothing could be tried: see the errors above"
    text = f"recommended: {tried[best.name].call(subject)}"
    close = [row.name for row in rows[1:] if row.rates and row.rate > 0.9 * best.rate]
    spread = (max(best.rates) - min(best.rates)) / statistics.median(best.rates)
    left = [each.name for each in plain if each.name not in {row.name for row in rows}]
    if left:
        text += f"\nno time was left to try {', '.join(left)}; give it more by --seconds"
    if close:
        text += f"\nwithin 10 % of it: {', '.join(close)}; its own windows differ by {spread:.0%}"
    return text
