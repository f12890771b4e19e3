"""What is told of a server without lockstep: sizes of its agent's calls, waits, and who is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.memory.call_log import BATCH, CALLS, ENVIRONMENTS, FEWEST, LONGEST, MOST, MOST_CALLS, SIZES, WAITED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.memory.call_log import Serving


def copied(serving: Serving) -> Serving:
    """A copy, with as many calls as there were."""
    n = min(MOST_CALLS, int(serving.counts[:, CALLS].max(initial=0)))
    calls = serving.calls[:, :n].copy()
    for server, counts in enumerate(serving.counts):
        calls[server, int(counts[CALLS]) :] = 0  # of the batch before in this slot
    return type(serving)(serving.counts.copy(), calls, serving.finished.copy())


def serving_statistics(serving: Serving) -> dict[str, Any]:
    """Attributes of `SamplerStatistics` for a batch; none if there was no such server, or it made no call."""
    counts = serving.counts[serving.counts[:, CALLS] > 0]
    if not len(counts):
        return {}
    calls, environments = int(counts[:, CALLS].sum()), int(counts[:, ENVIRONMENTS].sum())
    sizes = counts[:, SIZES:].sum(axis=0)
    finished = np.sort(serving.finished)
    return {
        "inference_calls": calls,
        "inference_batch": environments / calls,
        "inference_batch_min": int(counts[:, FEWEST].min()),
        "inference_batch_max": int(counts[:, MOST].max()),
        "inference_batch_sizes": tuple((2 ** int(k), int(sizes[k])) for k in np.flatnonzero(sizes)),
        "inference_wait_s": int(counts[:, WAITED].sum()) / environments / 1e9,
        "inference_wait_max_s": int(counts[:, LONGEST].max()) / 1e9,
        "slowest_env": int(serving.finished.argmax()) if finished[0] else None,
        "slowest_env_behind_s": float(finished[-1] - finished[(len(finished) - 1) // 2]) / 1e9 if finished[0] else None,
    }


def unfinished(servings: Sequence[Serving]) -> tuple[int, ...]:
    """Environments whose columns of the batch that is being collected are not full, once half of all are."""
    batches = [serving for serving in servings if (serving.counts[:, BATCH] > 0).any()]
    for serving in sorted(batches, key=lambda serving: int(serving.counts[:, BATCH].max())):
        behind = np.flatnonzero(serving.finished == 0)
        if 0 < len(behind) <= len(serving.finished) // 2:
            return tuple(behind.tolist())
        if len(behind):
            return ()
    return ()
