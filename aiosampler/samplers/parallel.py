"""What the samplers with worker processes share."""

from __future__ import annotations

from typing import Any

from aiosampler.affinity import Affinity, usable_cpu_count
from aiosampler.errors import ConfigError
from aiosampler.memory.arena_map import ProcessCounts
from aiosampler.runtime.deadlines import START_MARGIN_S
from aiosampler.samplers.base import AsyncSamplerMixin
from aiosampler.specs.batch import as_integer


class AsyncParallelSamplerMixin(AsyncSamplerMixin):
    """Splits the environments over worker processes.

    Worker w has a contiguous share of the B environments, as even as possible, the remainder to the first workers; it
    writes its columns of a batch in place. `n_workers` is by default the number of CPUs that this process may use (its
    CPU mask and its container's quota), and no more than there are environments.
    """

    _start_margin = START_MARGIN_S

    def _check_placement(
        self, n_workers: int | None, affinity: Affinity | None, device: Any, max_worker_restarts: int
    ) -> None:
        if affinity is not None and not isinstance(affinity, Affinity):
            raise TypeError(f"affinity must be an Affinity, got {affinity!r}")
        B = self._config.batch_B
        if n_workers is None:
            placed = None if affinity is None else affinity.workers
            self._n_workers = len(placed) if placed else self._default_workers()
        else:
            self._n_workers = as_integer("n_workers", n_workers, 1)
        if self._n_workers > B:
            raise ConfigError(
                f"n_workers={self._n_workers} is more than the batch_B={B} environments there are to share"
            )
        self._check_affinity(affinity)

    def _default_workers(self) -> int:
        return min(self._config.batch_B, usable_cpu_count())

    def _check_affinity(self, affinity: Affinity | None) -> None:
        if affinity is not None and affinity.workers is not None and len(affinity.workers) != self._n_workers:
            raise ConfigError(
                f"affinity.workers has {len(affinity.workers)} sets of CPUs, but there are n_workers={self._n_workers}"
            )

    def _process_counts(self) -> ProcessCounts:
        return ProcessCounts(self._n_workers)
