"""The sampler with worker processes that each have an agent on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.engines.kinds import EngineKind
from aiosampler.errors import ConfigError
from aiosampler.memory.arena_map import ProcessCounts
from aiosampler.runtime.deadlines import START_MARGIN_S
from aiosampler.samplers.parallel import AsyncParallelSamplerMixin
from aiosampler.samplers.starting import ProcessPlan

if TYPE_CHECKING:
    from aiosampler.options import Options


class AsyncCpuSampler(AsyncParallelSamplerMixin):
    """Each worker steps its environments with its own copy of the agent on the CPU; no worker waits within a batch.

    The fastest where the agent is small beside its environments: there is no signal between processes for each step.
    All of a batch is chosen by one policy version. The arguments are those of `AsyncSamplerMixin`.
    """

    def _refined(self, options: Options) -> Options:
        device = ", ".join(map(str, options.devices))
        if device != "cpu":
            raise ConfigError(
                f"device={device!r} would be ignored by AsyncCpuSampler, whose workers keep the agent on the CPU; "
                "leave it out"
            )
        if not options.lockstep:
            raise ConfigError(
                "lockstep=False would be ignored by AsyncCpuSampler, whose workers never wait for each other; use "
                "AsyncGpuSampler"
            )
        return super()._refined(options)

    def _processes(self) -> ProcessPlan:
        counts = ProcessCounts(self.options.worker_count)
        return ProcessPlan(engine=EngineKind.CPU, counts=counts, start_margin=START_MARGIN_S)
