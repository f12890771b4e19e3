"""The sampler whose sampler process steps all environments itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.engines.kinds import EngineKind
from aiosampler.errors import ConfigError
from aiosampler.memory.arena_map import ProcessCounts
from aiosampler.samplers.base import AsyncSamplerMixin
from aiosampler.samplers.starting import ProcessPlan

if TYPE_CHECKING:
    from aiosampler.options import Options


class AsyncSerialSampler(AsyncSamplerMixin):
    """Steps all environments in the sampler process, with the agent on the CPU beside them.

    The right choice for cheap environments on few cores, and for finding faults. The other samplers must return the
    same batches. The arguments are those of `AsyncSamplerMixin`. With ``in_process=True`` there is not even a sampler
    process, and a debugger stops in your environment.
    """

    def _refined(self, options: Options) -> Options:
        for name, value, default in (
            ("n_workers", options.n_workers, None),
            ("max_worker_restarts", options.max_worker_restarts, 0),
            ("device", ", ".join(map(str, options.devices)), "cpu"),
        ):
            if value != default:
                raise ConfigError(
                    f"{name}={value!r} would be ignored by AsyncSerialSampler, which has no workers and keeps the "
                    "agent on the CPU; leave it out"
                )
        if not options.lockstep:
            raise ConfigError(
                "lockstep=False would be ignored by AsyncSerialSampler, which steps one environment at a time; use "
                "AsyncGpuSampler"
            )
        if options.affinity.workers is not None:
            raise ConfigError(
                "affinity.workers would be ignored by AsyncSerialSampler, which has no workers; leave it out"
            )
        return options

    def _processes(self) -> ProcessPlan:
        return ProcessPlan(
            engine=EngineKind.SERIAL, counts=ProcessCounts(workers=1, alone=True), in_process=self.options.in_process
        )
