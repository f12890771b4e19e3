"""What one would otherwise collect with: loops over vector environments of other libraries, and their collectors.

Each has the same environments, the agent of the samplers, and keeps the same things of each step, in the configuration
in which it is the fastest: environments in one process, and in several.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler.affinity import usable_cpu_count
from aiosampler.agents.agent import AgentInputs
from aiosampler.commands.candidates import Subject, make_environment
from aiosampler.commands.ceilings import seconds_per_call, some_inputs
from aiosampler.specs.trees import tree_items, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiosampler.agents.agent import Agent


class Peer(Protocol):
    """One that collects."""

    def rate(self, seconds: float) -> float:
        """Steps per second over some seconds."""

    def close(self) -> None:
        """End it."""


class Way(NamedTuple):
    """A peer that can be made.

    Attributes:
        name: Such as ``gymnasium sync``.
        make: Makes it, which may raise whatever that library raises.
    """

    name: str
    make: Callable[[], Peer]


def ways(subject: Subject, workers: int) -> Iterator[Way]:
    """The peers that are installed, and suit what is sampled; with others, making them says why they do not.

    Args:
        subject: What is sampled, with single environments that are not awaited.
        workers: Processes of collectors that divide environments among them.
    """
    # Environments of one process first: forking many is quicker before other libraries are imported
    yield Way("gymnasium sync", functools.partial(_gymnasium, subject, gym.vector.SyncVectorEnv))
    yield Way("gymnasium async", functools.partial(_gymnasium, subject, gym.vector.AsyncVectorEnv))
    for package, name, make in (
        ("envpool", "envpool sync", functools.partial(_envpool, subject)),
        ("envpool", "envpool async", functools.partial(_envpool_halves, subject)),
        ("stable_baselines3", "sb3 dummy", functools.partial(_sb3, subject, "DummyVecEnv")),
        ("stable_baselines3", "sb3 subproc", functools.partial(_sb3, subject, "SubprocVecEnv")),
        ("torchrl", "torchrl sync", functools.partial(TorchRlCollector, subject, workers, "MultiSyncCollector")),
        ("torchrl", "torchrl async", functools.partial(TorchRlCollector, subject, workers, "MultiAsyncCollector")),
    ):
        there = importlib.util.find_spec(package) is not None
        yield Way(name, make if there else functools.partial(_missing, package))


def _missing(package: str) -> Peer:
    raise ModuleNotFoundError(f"not installed: pip install {package.replace('_', '-')}")


class VectorLoop:
    """What one would write with a vector environment: the same agent, and the same things kept.

    Args:
        subject: What is sampled.
        environments: Has Gymnasium's `reset`, `step` and `close`.
    """

    def __init__(self, subject: Subject, environments: Any) -> None:
        self._subject, self._environments = subject, environments
        self._agent = subject.make_acting_agent(subject.B)
        self._observation, _ = environments.reset()
        self._state = self._agent.initial_state(subject.B)
        self._action = some_inputs(subject, subject.B).prev_action
        self._reward = torch.zeros(subject.B)
        self._kept: dict[str, list[Any]] = {}

    @torch.inference_mode()
    def batch(self) -> None:
        """Collect a batch of T steps."""
        kept: dict[str, list[Any]] = {name: [] for name in ("observation", "action", "reward", "done", "agent_info")}
        for _ in range(self._subject.T):
            observation = tree_map(lambda leaf: torch.from_numpy(np.array(leaf)), self._observation)
            step = self._agent.step(AgentInputs(observation, self._action, self._reward), self._state)
            action = tree_map(lambda leaf: leaf.numpy(), step.action)
            self._observation, reward, terminated, truncated, _ = self._environments.step(action)
            self._action, self._state = step.action, step.state
            self._reward = torch.from_numpy(np.asarray(reward, np.float32))
            # Some libraries write the next step's to the same arrays
            record = (observation, step.action, self._reward, np.stack((terminated, truncated)), step.agent_info)
            for name, value in zip(kept, record, strict=True):
                kept[name].append(value)
        self._kept = kept

    def rate(self, seconds: float) -> float:
        """Steps per second over some seconds."""
        return self._subject.T * self._subject.B / seconds_per_call(self.batch, seconds)

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


def _makers(subject: Subject) -> list[Callable[[], Any]]:
    return [functools.partial(make_environment, subject.env_fn, subject.env_kwargs, 1)] * subject.B


def _gymnasium(subject: Subject, made: Any) -> VectorLoop:
    fast: dict[str, Any] = {"copy": False}  # the loop makes the only copy
    if hasattr(gym.vector, "AutoresetMode"):  # no step is lost on a reset, as in a sampler
        fast["autoreset_mode"] = gym.vector.AutoresetMode.SAME_STEP
    return VectorLoop(subject, made(_makers(subject), **fast))


class _EnvPool:
    """EnvPool's own environments, in C++, with Gymnasium's methods.

    Args:
        subject: What is sampled.
        n: How many of them a step is for; the others step meanwhile.
    """

    def __init__(self, subject: Subject, n: int) -> None:
        import envpool

        if not isinstance(subject.env_fn, str) or subject.env_fn not in envpool.list_all_envs():
            raise ValueError(f"has no {subject.env!r} of its own")
        threads = min(subject.B, usable_cpu_count())
        settings = {"num_envs": subject.B, "batch_size": n, "num_threads": threads, **subject.env_kwargs}
        self._pool = envpool.make_gymnasium(subject.env_fn, **settings)
        self._dtype = self._pool.action_space.dtype
        self._whole, self._ids = n == subject.B, None
        self.close = self._pool.close

    def reset(self) -> Any:
        if self._whole:
            return self._pool.reset()
        self._pool.async_reset()
        observation, *_, info = self._pool.recv()
        self._ids = info["env_id"]
        return observation, info

    def step(self, action: Any) -> Any:
        step = self._pool.step(action.astype(self._dtype, copy=False), self._ids)
        self._ids = None if self._whole else step[-1]["env_id"]
        return step


def _envpool(subject: Subject) -> VectorLoop:
    return VectorLoop(subject, _EnvPool(subject, subject.B))


def _envpool_halves(subject: Subject) -> VectorLoop:
    """Its threads step one half of the environments while the agent acts for the other."""
    if subject.B % 2:
        raise ValueError(f"its halves are of an even number of environments, got {subject.B}")
    half = dataclasses.replace(subject, B=subject.B // 2, T=2 * subject.T)
    return VectorLoop(half, _EnvPool(subject, half.B))


class _Sb3:
    """A vector environment of Stable-Baselines3, with Gymnasium's methods."""

    def __init__(self, environments: Any) -> None:
        self._environments = environments
        self.close = environments.close
        self._never = np.zeros(environments.num_envs, bool)

    def reset(self) -> tuple[Any, dict[str, Any]]:
        return self._environments.reset(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, reward, done, infos = self._environments.step(action)
        return observation, reward, done, self._never, infos


def _sb3(subject: Subject, name: str) -> VectorLoop:
    from stable_baselines3.common import vec_env

    options = {"start_method": "fork"} if name == "SubprocVecEnv" and hasattr(os, "fork") else {}
    return VectorLoop(subject, _Sb3(getattr(vec_env, name)(_makers(subject), **options)))


class _Acting(nn.Module):
    """The agent of a subject as a policy of TorchRL: of observations ``[n, ...]`` the action, and what it tells."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._subject = subject
        self._ready: dict[int, tuple[Agent, Any, torch.Tensor]] = {}  # by number of environments

    def forward(self, observation: torch.Tensor) -> tuple[Any, ...]:
        n = len(observation)
        if n not in self._ready:
            agent = self._subject.make_acting_agent(n)
            self._ready[n] = agent, some_inputs(self._subject, n).prev_action, torch.zeros(n)
        agent, *before = self._ready[n]
        with torch.inference_mode():
            step = agent.step(AgentInputs(observation, *before), agent.initial_state(n))
        return step.action, *(leaf for _, leaf in tree_items(step.agent_info))


def _torchrl_policy(subject: Subject) -> Any:
    from tensordict.nn import TensorDictModule

    acting = _Acting(subject)
    told = len(acting(some_inputs(subject, 1).observation)) - 1
    return TensorDictModule(acting, ["observation"], ["action", *(f"agent_info_{i}" for i in range(told))])


def _torchrl_environments(subject: Subject, n: int) -> Any:
    from torchrl.envs import GymWrapper, SerialEnv

    (make, *_) = _makers(subject)
    return SerialEnv(n, lambda: GymWrapper(make(), categorical_action_encoding=True))


class TorchRlCollector:
    """A collector of TorchRL, whose processes have an agent and their share of the environments each.

    Args:
        subject: What is sampled.
        workers: Processes; as many of them as the environments can be divided evenly among.
        name: Of the class: of those that wait for all processes, or give what the first has.
    """

    def __init__(self, subject: Subject, workers: int, name: str) -> None:
        import torchrl.collectors

        if not isinstance(subject.spaces[0], gym.spaces.Box):
            raise ValueError(f"its loop is for arrays as observations, got {subject.spaces[0]}")
        fresh = dataclasses.replace(subject)  # without what was looked up, which may not be pickled
        workers = next(n for n in range(min(workers, subject.B), 0, -1) if subject.B % n == 0)
        each = subject.B // workers
        together = name == "MultiSyncCollector"
        self._collector = getattr(torchrl.collectors, name)(
            [functools.partial(_torchrl_environments, fresh, each)] * workers,
            policy_factory=functools.partial(_torchrl_policy, fresh),
            frames_per_batch=subject.T * (subject.B if together else each),
            num_threads=1,
            num_sub_threads=1,
            **({"cat_results": 0} if together else {}),
        )
        self._batches = iter(self._collector)
        self._steps: int = next(self._batches).numel()

    def rate(self, seconds: float) -> float:
        """Steps per second over some seconds."""
        next(self._batches)  # collected while something else was measured
        next(self._batches)
        return self._steps / seconds_per_call(lambda: next(self._batches), seconds)

    def close(self) -> None:
        """End its processes."""
        self._collector.shutdown()
