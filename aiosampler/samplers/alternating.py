"""Samplers with two groups of workers: one group steps while the agent infers for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from aiosampler.errors import ConfigError
from aiosampler.samplers.gpu import AsyncGpuSamplerBase
from aiosampler.servers.action_server import AsyncAlternatingActionServer, AsyncNoOverlapAlternatingActionServer

if TYPE_CHECKING:
    from aiosampler.options import Options
    from aiosampler.servers.action_server import AsyncActionServer


class AsyncAlternatingSamplerBase(AsyncGpuSamplerBase):
    """Forms two groups of equal size from the workers of each device.

    Environments and workers must be even in number, per device. `n_workers` is by default two for each CPU that this
    process may use, one of each group. `make_affinity(alternating=True)` places them like that; a sampler on the CPU
    does so by itself where CPUs are few and no affinity is given.
    """

    def _refined(self, options: Options) -> Options:
        options = super()._refined(options)
        D = len(options.devices)
        each = "" if D == 1 else f" for each of {D} devices"
        for name, count in (("batch_B", options.batch_B), ("n_workers", options.worker_count)):
            if count % (2 * D):
                fits = [n for n in (count - count % (2 * D), count - count % (2 * D) + 2 * D) if n]
                raise ConfigError(
                    f"{name}={count} cannot be two equal groups{each}; {' or '.join(map(str, fits))} would fit"
                )
        return options

    def _default_workers(self, options: Options) -> int:
        D, B = len(options.devices), options.batch_B
        return max(1, min(B, 2 * options.cpu_count) // (2 * D)) * 2 * D


class AsyncAlternatingSampler(AsyncAlternatingSamplerBase):
    """While the agent infers for one group of workers, the other group steps; neither waits longer than it must.

    The right choice where inference and stepping take about as long as each other, on different hardware. The
    arguments are those of `AsyncSamplerMixin`.
    """

    action_server: ClassVar[type[AsyncActionServer] | None] = AsyncAlternatingActionServer


class AsyncNoOverlapAlternatingSampler(AsyncAlternatingSamplerBase):
    """As `AsyncAlternatingSampler`, but the two groups never step at the same time.

    The right choice where each CPU has a worker of each group, and two that step at once would slow each other down.
    The arguments are those of `AsyncSamplerMixin`.
    """

    action_server: ClassVar[type[AsyncActionServer] | None] = AsyncNoOverlapAlternatingActionServer
