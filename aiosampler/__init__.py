"""Asynchronous experience collection for reinforcement learning, awaited from asyncio.

The public names are the imports below, and are listed nowhere else: type checkers and editors follow them, and at run
time each is resolved when it is first used (:pep:`562`), so that a process which needs no torch loads none.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from aiosampler.affinity import Affinity as Affinity
    from aiosampler.affinity import make_affinity as make_affinity
    from aiosampler.affinity import usable_cpus as usable_cpus
    from aiosampler.agents.agent import Agent as Agent
    from aiosampler.agents.agent import AgentInputs as AgentInputs
    from aiosampler.agents.agent import AgentStep as AgentStep
    from aiosampler.agents.categorical import CategoricalPgAgent as CategoricalPgAgent
    from aiosampler.agents.dqn import DqnAgent as DqnAgent
    from aiosampler.agents.frame_stack import FrameStackAgent as FrameStackAgent
    from aiosampler.agents.gaussian import GaussianPgAgent as GaussianPgAgent
    from aiosampler.agents.random import RandomAgent as RandomAgent
    from aiosampler.collectors.atari import AtariTrajInfo as AtariTrajInfo
    from aiosampler.collectors.atari import EpisodicLives as EpisodicLives
    from aiosampler.collectors.open_env import OpenEnvAdapter as OpenEnvAdapter
    from aiosampler.collectors.traj_info import TrajInfo as TrajInfo
    from aiosampler.errors import AgentError as AgentError
    from aiosampler.errors import ArenaError as ArenaError
    from aiosampler.errors import ConfigError as ConfigError
    from aiosampler.errors import EnvironmentFailed as EnvironmentFailed
    from aiosampler.errors import ProcessFailure as ProcessFailure
    from aiosampler.errors import ResourceError as ResourceError
    from aiosampler.errors import SamplerClosed as SamplerClosed
    from aiosampler.errors import SamplerError as SamplerError
    from aiosampler.errors import UnknownAttribute as UnknownAttribute
    from aiosampler.errors import WorkerDied as WorkerDied
    from aiosampler.errors import WorkerError as WorkerError
    from aiosampler.errors import WorkerTimeout as WorkerTimeout
    from aiosampler.samplers.alternating import AsyncAlternatingSampler as AsyncAlternatingSampler
    from aiosampler.samplers.alternating import AsyncAlternatingSamplerBase as AsyncAlternatingSamplerBase
    from aiosampler.samplers.alternating import AsyncNoOverlapAlternatingSampler as AsyncNoOverlapAlternatingSampler
    from aiosampler.samplers.base import AsyncSamplerMixin as AsyncSamplerMixin
    from aiosampler.samplers.cpu import AsyncCpuSampler as AsyncCpuSampler
    from aiosampler.samplers.cpu_budget import CpuBudget as CpuBudget
    from aiosampler.samplers.episode_assembler import Episode as Episode
    from aiosampler.samplers.episode_assembler import EpisodeAssembler as EpisodeAssembler
    from aiosampler.samplers.episode_ends import FinalObservations as FinalObservations
    from aiosampler.samplers.episode_ends import FinalValues as FinalValues
    from aiosampler.samplers.evaluation import Evaluation as Evaluation
    from aiosampler.samplers.frame_stacks import FrameStacks as FrameStacks
    from aiosampler.samplers.gpu import AsyncGpuSampler as AsyncGpuSampler
    from aiosampler.samplers.gpu import AsyncGpuSamplerBase as AsyncGpuSamplerBase
    from aiosampler.samplers.parallel import AsyncParallelSamplerMixin as AsyncParallelSamplerMixin
    from aiosampler.samplers.sample_stats import SampleStats as SampleStats
    from aiosampler.samplers.samples import AgentSamples as AgentSamples
    from aiosampler.samplers.samples import EnvSamples as EnvSamples
    from aiosampler.samplers.samples import Samples as Samples
    from aiosampler.samplers.serial import AsyncSerialSampler as AsyncSerialSampler
    from aiosampler.samplers.statistics import SamplerStatistics as SamplerStatistics
    from aiosampler.samplers.step_sequences import StepSequence as StepSequence
    from aiosampler.samplers.sync import SyncSampler as SyncSampler
    from aiosampler.samplers.timeline import Timeline as Timeline
    from aiosampler.servers.action_server import AsyncActionServer as AsyncActionServer
    from aiosampler.servers.action_server import AsyncAlternatingActionServer as AsyncAlternatingActionServer
    from aiosampler.servers.action_server import (
        AsyncNoOverlapAlternatingActionServer as AsyncNoOverlapAlternatingActionServer,
    )
    from aiosampler.specs.arrays import Spaces as Spaces
    from aiosampler.specs.batch import BatchSpec as BatchSpec
    from aiosampler.specs.context import EnvContext as EnvContext
    from aiosampler.specs.seeding import environment_seed as environment_seed
else:
    import functools
    import importlib

    @functools.cache
    def _modules() -> dict[str, str]:
        """The module of each public name, read from the compiled imports above, which never run."""
        import dis

        modules, module = {}, ""
        for instruction in dis.get_instructions(__spec__.loader.get_code(__name__)):
            if instruction.opname == "IMPORT_NAME":
                module = instruction.argval
            elif instruction.opname == "IMPORT_FROM" and module.startswith(f"{__name__}."):
                modules[instruction.argval] = module
        return modules

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return __dir__()
        if name == "__version__":
            return _version()
        if name.startswith("__") or name not in _modules():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_modules()[name]), name)
        globals()[name] = value
        return value

    @functools.cache
    def _version() -> str:
        """The version that was installed; there is none where the files were only put on the path."""
        from importlib import metadata

        try:
            return metadata.version(__name__)
        except metadata.PackageNotFoundError:
            return "0+unknown"

    def __dir__() -> list[str]:
        return sorted(_modules())
