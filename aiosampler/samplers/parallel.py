"""The base class of the samplers with worker processes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aiosampler.errors import ConfigError
from aiosampler.samplers.base import AsyncSamplerMixin

if TYPE_CHECKING:
    from aiosampler.options import Options


class AsyncParallelSamplerMixin(AsyncSamplerMixin):
    """Splits the environments over worker processes.

    Worker w has a contiguous share of the B environments, as even as possible, the remainder to the first workers; it
    writes its columns of a batch in place. `n_workers` is by default the number of CPUs that this process may use (its
    CPU mask and its container's quota), or that of `cpus`, and no more than there are environments.
    """

    def _refined(self, options: Options) -> Options:
        if options.in_process:
            raise ConfigError(
                f"in_process=True would be ignored by {type(self).__name__}, whose environments are in worker "
                "processes; use AsyncSerialSampler, which collects the same"
            )
        n_workers, B, placed = options.n_workers, options.batch_B, options.affinity.workers
        if n_workers is None:
            n_workers = len(placed) if placed else self._default_workers(options)
        if n_workers > B:
            raise ConfigError(f"n_workers={n_workers} is more than the batch_B={B} environments there are to share")
        if placed is not None and len(placed) != n_workers:
            raise ConfigError(f"affinity.workers has {len(placed)} sets of CPUs, but there are n_workers={n_workers}")
        return dataclasses.replace(options, n_workers=n_workers)

    def _default_workers(self, options: Options) -> int:
        return min(options.batch_B, options.cpu_count)
