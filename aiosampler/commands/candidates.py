"""What `bench` and `tune` measure: an environment and an agent by name, and samplers of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler.affinity import Affinity, make_affinity, usable_cpu_count, usable_cpus
from aiosampler.agents.agent import Agent
from aiosampler.agents.categorical import CategoricalPgAgent
from aiosampler.agents.gaussian import GaussianPgAgent
from aiosampler.agents.random import RandomAgent
from aiosampler.errors import ConfigError
from aiosampler.samplers.alternating import AsyncAlternatingSampler, AsyncNoOverlapAlternatingSampler
from aiosampler.samplers.cpu import AsyncCpuSampler
from aiosampler.samplers.gpu import AsyncGpuSampler
from aiosampler.samplers.serial import AsyncSerialSampler
from aiosampler.specs.arguments import as_integer
from aiosampler.specs.arrays import Spaces
from aiosampler.specs.context import NUM_ENVS, takes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "serial": (AsyncSerialSampler, {}),
    "cpu": (AsyncCpuSampler, {}),
    "gpu": (AsyncGpuSampler, {}),
    "own-pace": (AsyncGpuSampler, {"lockstep": False}),
    "alternating": (AsyncAlternatingSampler, {}),
    "no-overlap": (AsyncNoOverlapAlternatingSampler, {}),
}
LOCAL = ("serial", "cpu")  # the agent is where the environments are
ALTERNATING = ("alternating", "no-overlap")
LEAST_IMAGE = 36  # pixels of a side, for the convolutions below


def find(name: str) -> Any:
    """What a name on the command line stands for: ``module:factory``, or, where that is none, the name itself.

    Args:
        name: ``my_worlds:make``, or a Gymnasium id, which may have a colon as well (``package:Id-v0``).

    Raises:
        ConfigError: There is no such module, or it has no such name and registers no such id.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        return name
    try:
        found = importlib.import_module(module)
    except ImportError as exc:
        raise ConfigError(f"{name!r}: the module {module!r} cannot be imported: {exc}") from exc
    if hasattr(found, attribute):
        return getattr(found, attribute)
    if name in gym.registry or attribute in gym.registry or "-v" in attribute:
        return name
    raise ConfigError(f"{name!r}: the module {module!r} has no {attribute!r}, and registers no such environment")


def make_environment(env_fn: Any, kwargs: dict[str, Any], n: int) -> Any:
    """An environment as a worker has it: of `n` where `env_fn` makes them so, one otherwise."""
    if isinstance(env_fn, str):
        return gym.make(env_fn, **kwargs)
    sizes = {NUM_ENVS: n} if takes(env_fn, NUM_ENVS) else {}
    context = {"context": None} if takes(env_fn, "context") else {}
    return env_fn(**kwargs, **sizes, **context)


def single_spaces(environment: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The spaces of one environment, also of a vector environment."""
    if hasattr(environment, "single_observation_space"):
        return environment.single_observation_space, environment.single_action_space
    return environment.observation_space, environment.action_space


class ActorCritic(nn.Module):
    """What policy gradients usually act by: the Nature CNN for images of 36 pixels and more, else two layers of 64.

    Args:
        observation_space: A Box.
        action_space: Discrete for logits, or a Box for means and log-deviations.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        assert isinstance(observation_space, gym.spaces.Box)
        shape = observation_space.shape
        self._images = is_image(observation_space)
        # Channels are the last dimension, or the first, whichever is smaller
        self._last = self._images and shape[-1] < shape[0]
        trunk: list[nn.Module] = []
        if self._images:
            channels = shape[-1] if self._last else shape[0]
            trunk = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            trunk += [nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()]
            probe = torch.zeros(1, channels, *(shape[:2] if self._last else shape[1:]))
            width, hidden = nn.Sequential(*trunk)(probe).shape[1], 512
        else:
            width, hidden = int(np.prod(shape)), 64
        trunk += [nn.Linear(width, hidden), nn.Tanh()] + (
            [] if self._images else [nn.Linear(hidden, hidden), nn.Tanh()]
        )
        self.trunk, self.value = nn.Sequential(*trunk), nn.Linear(hidden, 1)
        self._shape: tuple[int, ...] | None = None
        if isinstance(action_space, gym.spaces.Discrete):
            outputs = int(action_space.n)
        else:
            assert action_space.shape is not None
            self._shape, outputs = action_space.shape, int(np.prod(action_space.shape))
            self.log_std = nn.Parameter(torch.zeros(self._shape))
        self.policy = nn.Linear(hidden, outputs)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs for observations ``[B, ...]``: logits and value, or mean, log_std and value."""
        if self._images:
            inputs = observation.movedim(-1, 1) if self._last else observation
            hidden = self.trunk(inputs.float() * (1 / 255))
        else:
            hidden = self.trunk(observation.flatten(1).float())
        policy, value = self.policy(hidden), self.value(hidden).squeeze(-1)
        if self._shape is None:
            return policy, value
        mean = policy.view(-1, *self._shape)
        return mean, self.log_std.expand_as(mean), value


def is_image(space: gym.spaces.Box) -> bool:
    """Whether convolutions suit it."""
    return len(space.shape) == 3 and sorted(space.shape)[1] >= LEAST_IMAGE


def make_agent(name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Agent:
    """The agent of that name for an environment.

    Args:
        name: ``auto`` for policy gradients where these suit the spaces, and random actions otherwise; ``random``; or
            ``module:factory``, which is called without arguments.
        observation_space: Of one environment.
        action_space: Of one environment.

    Raises:
        ConfigError: It is no agent.
    """
    if name == "random":
        return RandomAgent()
    if name == "auto":
        if isinstance(observation_space, gym.spaces.Box) and observation_space.shape:
            if isinstance(action_space, gym.spaces.Discrete):
                return CategoricalPgAgent(ActorCritic)
            if isinstance(action_space, gym.spaces.Box):
                return GaussianPgAgent(ActorCritic)
        return RandomAgent()
    made = find(name)
    made = made() if callable(made) else made
    if not isinstance(made, Agent):
        raise ConfigError(f"--agent {name!r} must be auto, random, or module:factory of an Agent, got {made!r}")
    return made


@dataclass(frozen=True)
class Subject:
    """What is sampled: an environment, an agent, and the shape of a batch.

    Attributes:
        env: As it was named.
        env_fn: What makes it.
        env_kwargs: Arguments of that.
        agent: As it was named.
        T: Time steps of a batch.
        B: Environments.
        device: Of agents that act for workers.
    """

    env: str
    agent: str
    T: int
    B: int
    device: str = "cpu"
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def env_fn(self) -> str | Callable[..., Any]:
        """What makes the environment."""
        found: str | Callable[..., Any] = find(self.env)
        return found

    @property
    def awaits(self) -> bool:
        """Whether its methods are coroutines."""
        return self._example[1]

    @property
    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """The spaces of one environment."""
        return self._example[0]

    @functools.cached_property
    def _example(self) -> tuple[tuple[gym.Space[Any], gym.Space[Any]], bool]:
        """Spaces, and whether it is awaited, of an environment that is made and closed for that."""
        with ThreadPoolExecutor(1) as thread:  # which has no event loop yet, for what is awaited
            try:
                return thread.submit(asyncio.run, self._look()).result()
            except ConfigError:  # there is none of that name
                raise
            except Exception as exc:
                text = f"an environment of {self.env!r} cannot be made: {type(exc).__name__}: {exc}"
                raise ConfigError(text) from exc

    async def _look(self) -> tuple[tuple[gym.Space[Any], gym.Space[Any]], bool]:
        made = make_environment(self.env_fn, self.env_kwargs, 1)
        async with contextlib.AsyncExitStack() as opened:
            environment = await made if inspect.isawaitable(made) else made
            if entered := hasattr(environment, "__aenter__"):  # and leaving it closes it
                environment = await opened.enter_async_context(environment)
            awaits = environment is not made or any(
                inspect.iscoroutinefunction(getattr(environment, name, None)) for name in ("step", "step_async")
            )
            found = single_spaces(environment), awaits
            if not entered and (closing := environment.close()) is not None:
                await closing
        return found

    def make_agent(self) -> Agent:
        """A new agent."""
        return make_agent(self.agent, *self.spaces)

    def make_acting_agent(self, n: int) -> Agent:
        """A new agent that is ready to act for the first `n` of the B environments, without a sampler."""
        agent = self.make_agent()
        agent.initialize(Spaces(*self.spaces))
        agent.collector_initialize(self.B, range(n))
        agent.sample_mode(0)
        return agent


@dataclass(frozen=True)
class Candidate:
    """One way to sample.

    Attributes:
        kind: One of `KINDS`.
        n_workers: None for a serial sampler.
        placement: ``"pinned"``, each worker to one CPU; ``"apart"``, each group to a half of them; ``"unplaced"``, left
            to the scheduler; None for what the sampler does by itself.
    """

    kind: str
    n_workers: int | None = None
    placement: str | None = None

    @property
    def name(self) -> str:
        """Such as ``cpu x 4``."""
        name = self.kind if self.n_workers is None else f"{self.kind} x {self.n_workers}"
        return name if self.placement is None else f"{name}, {self.placement}"

    @property
    def alternates(self) -> bool:
        """Whether its workers are two groups."""
        return self.kind in ALTERNATING

    def placed(self, subject: Subject) -> list[Candidate]:
        """The same with each placement that it can be given here."""
        if self.n_workers is None or subject.awaits or not hasattr(os, "sched_setaffinity"):
            return []
        names = ["pinned"]
        if self.alternates and subject.device == "cpu":
            names += ["apart", "unplaced"] if len(usable_cpus()) > 1 else ["unplaced"]
        return [dataclasses.replace(self, placement=name) for name in names]

    def _affinity(self, subject: Subject) -> tuple[Affinity, str]:
        """Its placement, and what makes that, as one would write it."""
        if self.placement == "unplaced":
            return Affinity(cpus=usable_cpus()), "Affinity(cpus=usable_cpus())"
        options: dict[str, Any] = {
            "n_gpus": int(self.kind not in LOCAL and subject.device != "cpu"),
            "alternating": self.alternates,
            "apart": self.placement == "apart",
        }
        written = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return make_affinity(self.n_workers, **options), f"make_affinity({self.n_workers}{written})"

    def options(self, subject: Subject) -> dict[str, Any]:
        """Arguments of its constructor, beside environment and agent."""
        options: dict[str, Any] = {"batch_T": subject.T, "batch_B": subject.B}
        if self.n_workers is not None:
            options["n_workers"] = self.n_workers
        if self.kind not in LOCAL and subject.device != "cpu":
            options["device"] = subject.device
        if subject.env_kwargs:
            options["env_kwargs"] = subject.env_kwargs
        return {**options, **KINDS[self.kind][1]}

    def make(self, subject: Subject) -> Any:
        """A sampler that is not started.

        Raises:
            ConfigError: This kind cannot be had so.
        """
        options = self.options(subject)
        if self.placement is not None:
            options["affinity"], _ = self._affinity(subject)
        return KINDS[self.kind][0](subject.env_fn, agent=subject.make_agent(), seed=0, **options)

    def call(self, subject: Subject) -> str:
        """The call of the constructor, as one would write it."""
        env = repr(subject.env) if isinstance(subject.env_fn, str) else subject.env.partition(":")[2]
        options = "".join(f", {name}={value!r}" for name, value in self.options(subject).items())
        if self.placement is not None:
            options += f", affinity={self._affinity(subject)[1]}"
        return f"{KINDS[self.kind][0].__name__}({env}, agent=agent{options})"


def make_subject(chosen: argparse.Namespace) -> Subject:
    """What is sampled, by the arguments of a command.

    Raises:
        ConfigError: One is not allowed.
    """
    try:
        kwargs = json.loads(chosen.env_kwargs)
    except ValueError as exc:
        raise ConfigError(f"--env-kwargs is not JSON: {exc}") from exc
    if not isinstance(kwargs, dict):
        raise ConfigError(
            f"--env-kwargs must be a JSON object, such as '{{\"frameskip\": 4}}', got {chosen.env_kwargs}"
        )
    T, B = as_integer("--T", chosen.T, 1), as_integer("--B", chosen.B, 1)
    for name in ("seconds", "windows"):
        if not 0 < getattr(chosen, name, 1) < math.inf:
            raise ConfigError(f"--{name} must be a number above 0, got {getattr(chosen, name)}")
    return Subject(chosen.env, chosen.agent, T, B, chosen.device, kwargs)


def candidates(names: str, workers: int | None, device: str = "cpu") -> list[Candidate]:
    """Ways to sample, by the arguments of a command.

    Args:
        names: Kinds, with commas between them.
        workers: Of those that have any; as many as CPUs by default.
        device: Of those that have one; refused if none has.

    Raises:
        ConfigError: There is no such kind, or a number would be ignored.
    """
    kinds = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--samplers must be some of {', '.join(KINDS)}, got {kind!r}")
    if device != "cpu" and all(kind in LOCAL for kind in kinds):
        raise ConfigError(
            f"--device={device} would be ignored: {' and '.join(kinds)} act on the CPU, beside their "
            "environments; name others by --samplers, such as gpu"
        )
    if workers is not None and all(kind == "serial" for kind in kinds):
        raise ConfigError(f"--workers={workers} would be ignored: the serial sampler has none")
    if workers is None:
        workers = max(2, usable_cpu_count())
    return [Candidate(kind, None if kind == "serial" else as_integer("--workers", workers, 1)) for kind in kinds]


def memory_of(pids: list[int]) -> float | None:
    """MiB that processes have of their own, and their shares of what they have together; None where it is not told."""
    try:
        total = 0
        for pid in pids:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return total / 1024
    except (OSError, StopIteration):
        return None


def processes_of(sampler: Any) -> list[int]:
    """Process ids of a sampler that runs."""
    statistics = sampler.statistics()
    pids = (statistics.sampler_pid, *statistics.worker_pids, *statistics.server_pids)
    return sorted({pid for pid in pids if pid is not None} - {os.getpid()})
