"""Asynchronous experience collection for reinforcement learning, awaited from asyncio.

Names are resolved when they are first used (:pep:`562`), so that a process which needs no torch loads none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiosampler.affinity import Affinity, make_affinity, usable_cpus
    from aiosampler.agents.base import Agent, AgentInputs, AgentStep
    from aiosampler.agents.categorical import CategoricalPgAgent
    from aiosampler.agents.dqn import DqnAgent
    from aiosampler.agents.gaussian import GaussianPgAgent
    from aiosampler.agents.random import RandomAgent
    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.errors import (
        AgentError,
        ArenaError,
        ConfigError,
        EnvironmentFailed,
        ProcessFailure,
        ResourceError,
        SamplerClosed,
        SamplerError,
        WorkerDied,
        WorkerError,
        WorkerTimeout,
    )
    from aiosampler.samplers.alternating import (
        AsyncAlternatingSampler,
        AsyncAlternatingSamplerBase,
        AsyncNoOverlapAlternatingSampler,
    )
    from aiosampler.samplers.base import AsyncSamplerMixin
    from aiosampler.samplers.cpu import AsyncCpuSampler
    from aiosampler.samplers.gpu import AsyncGpuSampler, AsyncGpuSamplerBase
    from aiosampler.samplers.parallel import AsyncParallelSamplerMixin
    from aiosampler.samplers.samples import AgentSamples, EnvSamples, FinalObservations, Samples, SampleStats
    from aiosampler.samplers.serial import AsyncSerialSampler
    from aiosampler.samplers.statistics import SamplerStatistics
    from aiosampler.samplers.timeline import Timeline
    from aiosampler.servers.action_server import (
        AsyncActionServer,
        AsyncAlternatingActionServer,
        AsyncNoOverlapAlternatingActionServer,
    )
    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.batch import BatchSpec
    from aiosampler.specs.seeding import environment_seed

_MODULES = {
    "Affinity": "affinity",
    "Agent": "agents.base",
    "AgentError": "errors",
    "AgentInputs": "agents.base",
    "AgentSamples": "samplers.samples",
    "AgentStep": "agents.base",
    "ArenaError": "errors",
    "AsyncActionServer": "servers.action_server",
    "AsyncAlternatingActionServer": "servers.action_server",
    "AsyncAlternatingSampler": "samplers.alternating",
    "AsyncAlternatingSamplerBase": "samplers.alternating",
    "AsyncCpuSampler": "samplers.cpu",
    "AsyncGpuSampler": "samplers.gpu",
    "AsyncGpuSamplerBase": "samplers.gpu",
    "AsyncNoOverlapAlternatingActionServer": "servers.action_server",
    "AsyncNoOverlapAlternatingSampler": "samplers.alternating",
    "AsyncParallelSamplerMixin": "samplers.parallel",
    "AsyncSamplerMixin": "samplers.base",
    "AsyncSerialSampler": "samplers.serial",
    "BatchSpec": "specs.batch",
    "CategoricalPgAgent": "agents.categorical",
    "ConfigError": "errors",
    "DqnAgent": "agents.dqn",
    "EnvSamples": "samplers.samples",
    "EnvironmentFailed": "errors",
    "FinalObservations": "samplers.samples",
    "GaussianPgAgent": "agents.gaussian",
    "ProcessFailure": "errors",
    "RandomAgent": "agents.random",
    "ResourceError": "errors",
    "SampleStats": "samplers.samples",
    "SamplerClosed": "errors",
    "SamplerError": "errors",
    "SamplerStatistics": "samplers.statistics",
    "Samples": "samplers.samples",
    "Spaces": "specs.arrays",
    "Timeline": "samplers.timeline",
    "TrajInfo": "collectors.traj_info",
    "WorkerDied": "errors",
    "WorkerError": "errors",
    "WorkerTimeout": "errors",
    "environment_seed": "specs.seeding",
    "make_affinity": "affinity",
    "usable_cpus": "affinity",
}

__all__ = [
    "Affinity",
    "Agent",
    "AgentError",
    "AgentInputs",
    "AgentSamples",
    "AgentStep",
    "ArenaError",
    "AsyncActionServer",
    "AsyncAlternatingActionServer",
    "AsyncAlternatingSampler",
    "AsyncAlternatingSamplerBase",
    "AsyncCpuSampler",
    "AsyncGpuSampler",
    "AsyncGpuSamplerBase",
    "AsyncNoOverlapAlternatingActionServer",
    "AsyncNoOverlapAlternatingSampler",
    "AsyncParallelSamplerMixin",
    "AsyncSamplerMixin",
    "AsyncSerialSampler",
    "BatchSpec",
    "CategoricalPgAgent",
    "ConfigError",
    "DqnAgent",
    "EnvSamples",
    "EnvironmentFailed",
    "FinalObservations",
    "GaussianPgAgent",
    "ProcessFailure",
    "RandomAgent",
    "ResourceError",
    "SampleStats",
    "SamplerClosed",
    "SamplerError",
    "SamplerStatistics",
    "Samples",
    "Spaces",
    "Timeline",
    "TrajInfo",
    "WorkerDied",
    "WorkerError",
    "WorkerTimeout",
    "environment_seed",
    "make_affinity",
    "usable_cpus",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
