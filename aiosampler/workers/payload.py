"""Unpacking what the user's process sent: factories, the agent, the class of trajectory infos."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.environments import AgentFault, fault_of, make_environment
from aiosampler.errors import ConfigError
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.workers.random_streams import seed_generators

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

    from aiosampler.agents.base import Agent
    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.specs.arrays import Spaces
    from aiosampler.workers.messages import Job


@dataclass(frozen=True, slots=True)
class Payload:
    """The objects of a job, fresh from their pickles."""

    job: Job

    def load(self, name: str) -> Any:
        """One object; each call makes another copy."""
        try:
            return pickle.loads(self.job.payload[name])
        except Exception as exc:
            exc.add_note(f"while unpickling {name} in a process of the sampler")
            raise

    def agent(self) -> Agent:
        """A copy of the agent, not initialised yet."""
        agent: Agent = self.load("agent")
        return agent

    def environment(self, index: int | None, *, evaluation: bool = False) -> gym.Env[Any, Any]:
        """Build an environment; evaluation environments take ``eval_env_kwargs`` in place of ``env_kwargs``."""
        with fault_of("calling env_fn", index, evaluation):
            kwargs = self.load("eval_env_kwargs") if evaluation else None
            if kwargs is None:
                kwargs = self.load("env_kwargs") or {}
            return make_environment(self.load("env_fn"), dict(kwargs))

    def traj_info_factory(self, kind: type[TrajInfo]) -> Callable[[], TrajInfo]:
        """A function that makes the trajectory info of a new episode."""
        return functools.partial(kind, **(self.load("traj_info_kwargs") or {}))


def initialize_agent(agent: Agent, spaces: Spaces, seed: int) -> None:
    """Build the agent's model the same way in every process.

    Raises:
        AgentFault: The agent raised; a `ConfigError` of it is left as it is.
    """
    seed_generators(stream_seed(seed, Stream.AGENT_INIT))
    try:
        agent.initialize(spaces)
    except ConfigError:
        raise
    except Exception as exc:
        raise AgentFault(f"the agent raised {type(exc).__name__} in initialize(): {exc}") from exc
