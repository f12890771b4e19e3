"""Worker processes, each with an agent of its own on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiosampler.errors import ConfigError
from aiosampler.samplers.parallel import AsyncParallelSamplerMixin

if TYPE_CHECKING:
    from aiosampler.affinity import Affinity


class AsyncCpuSampler(AsyncParallelSamplerMixin):
    """Each worker steps its environments with its own copy of the agent on the CPU; nobody waits within a batch.

    The fastest where the agent is small beside its environments: there is no signal between processes for each step.
    All of a batch is chosen by one policy version. The arguments are those of `AsyncSamplerMixin`.
    """

    _engine = "aiosampler.engines.cpu_engine"

    def _check_placement(
        self, n_workers: int | None, affinity: Affinity | None, device: Any, max_worker_restarts: int
    ) -> None:
        if str(device) != "cpu":
            raise ConfigError(
                f"device={str(device)!r} would be ignored by AsyncCpuSampler, whose workers keep the agent on the CPU; "
                "leave it out"
            )
        super()._check_placement(n_workers, affinity, device, max_worker_restarts)
