"""One sampler process that steps all environments itself."""

from __future__ import annotations

from typing import Any

from aiosampler.affinity import Affinity
from aiosampler.errors import ConfigError
from aiosampler.samplers.base import AsyncSamplerMixin


class AsyncSerialSampler(AsyncSamplerMixin):
    """Steps all environments in the sampler process, with the agent on the CPU beside them.

    The right choice for cheap environments on few cores, and for finding faults: it is what the other samplers are
    measured against. The arguments are those of `AsyncSamplerMixin`.
    """

    _engine = "aiosampler.engines.serial_engine"

    def _check_placement(
        self, n_workers: int | None, affinity: Affinity | None, device: Any, max_worker_restarts: int
    ) -> None:
        """There are no workers and no devices to place."""
        for name, value, default in (
            ("n_workers", n_workers, None),
            ("max_worker_restarts", max_worker_restarts, 0),
            ("device", str(device), "cpu"),
        ):
            if value != default:
                raise ConfigError(
                    f"{name}={value!r} would be ignored by AsyncSerialSampler, which has no workers and keeps the "
                    "agent on the CPU; leave it out"
                )
        self._check_affinity(affinity)

    def _check_affinity(self, affinity: Affinity | None) -> None:
        if affinity is None:
            return
        if not isinstance(affinity, Affinity):
            raise TypeError(f"affinity must be an Affinity, got {affinity!r}")
        if affinity.workers is not None:
            raise ConfigError(
                "affinity.workers would be ignored by AsyncSerialSampler, which has no workers; leave it out"
            )
