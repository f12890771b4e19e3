"""What can be asked for: worlds, agents and samplers from these lists, and numbers within these limits."""

import os
import random
from typing import Annotated, Any, Literal

import gymnasium as gym
from pydantic import BaseModel, ConfigDict, Field

from aiosampler import (
    Agent,
    AsyncAlternatingSampler,
    AsyncCpuSampler,
    AsyncGpuSampler,
    AsyncNoOverlapAlternatingSampler,
    AsyncSerialSampler,
    CategoricalPgAgent,
    RandomAgent,
)
from service.learning import ActorCritic

MOST_EVAL_STEPS = 100_000  # of one evaluation; what is cut is told


class Fragile(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole that takes its process with it, now and then: to see workers being replaced."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action: Any) -> Any:
        if random.random() < 1e-4:
            os._exit(1)
        return self.env.step(action)


WORLDS: dict[str, Any] = {
    "CartPole-v1": "CartPole-v1",
    "Acrobot-v1": "Acrobot-v1",
    "CartPole that crashes": Fragile,
}
AGENTS = {"actor-critic": lambda: CategoricalPgAgent(ActorCritic), "random": RandomAgent}
SAMPLERS = {
    "serial": AsyncSerialSampler,
    "cpu": AsyncCpuSampler,
    "gpu": AsyncGpuSampler,
    "alternating": AsyncAlternatingSampler,
    "no-overlap": AsyncNoOverlapAlternatingSampler,
}


class Settings(BaseModel):
    """What a run is to be. Unknown names are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world: Literal["CartPole-v1", "Acrobot-v1", "CartPole that crashes"] = "CartPole-v1"
    agent: Literal["actor-critic", "random"] = "actor-critic"
    sampler: Literal["serial", "cpu", "gpu", "alternating", "no-overlap"] = "cpu"
    batch_T: Annotated[int, Field(ge=1, le=1024)] = 32
    batch_B: Annotated[int, Field(ge=1, le=256)] = 16
    n_workers: Annotated[int, Field(ge=1, le=64)] | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None  # fewer than there are leave the others to the event loop
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    max_worker_restarts: Annotated[int, Field(ge=0, le=10_000)] = 100
    step_timeout: Annotated[float, Field(ge=1, le=600)] = 30.0


def make_sampler(settings: Settings, agent: Agent) -> Any:
    """A sampler that is not started yet; a ConfigError says what does not fit together."""
    options = settings.model_dump(exclude={"world", "agent", "sampler", "learning_rate"})
    if settings.sampler == "serial":  # has no workers that could be replaced
        options.pop("max_worker_restarts")
    return SAMPLERS[settings.sampler](
        WORLDS[settings.world],
        agent=agent,
        bootstrap_value=settings.agent == "actor-critic",
        eval_n_envs=4,
        eval_max_steps=MOST_EVAL_STEPS,
        eval_keep_envs=False,
        **options,
    )
