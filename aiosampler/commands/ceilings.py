"""What could be had at best: how long an environment's step and an agent's take by themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.agent import AgentInputs
from aiosampler.commands.candidates import LOCAL, Subject, make_environment
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.specs.trees import Tree


class Ceiling(NamedTuple):
    """How fast a sampler could be if nothing were recorded and nobody waited for.

    Attributes:
        steps_per_second: Of all environments together.
        env_s: Seconds of one environment's step.
        act_s: Seconds in which the agent acts for all that it acts for at once.
    """

    steps_per_second: float
    env_s: float
    act_s: float


class Bounds:
    """Measures ceilings in this process.

    Args:
        subject: Whose; its environment must not be one of coroutines, whose steps take no time of their own.
        cpus: How many there are.
    """

    def __init__(self, subject: Subject, cpus: int) -> None:
        self._subject, self._cpus = subject, cpus
        self._agents = {subject.B: subject.make_acting_agent(subject.B)}  # by number of environments
        self._environments: dict[int, Any] = {}

    def measure(self, kind: str, workers: int, seconds: float) -> Ceiling:
        """The ceiling of a kind of sampler with so many workers.

        Args:
            kind: Such as ``"cpu"``.
            workers: Processes that step.
            seconds: To measure for.
        """
        B, groups = self._subject.B, 2 if kind in ("alternating", "no-overlap") else 1
        n = max(1, B // workers)  # environments of a worker
        acting = n if kind in LOCAL else max(1, B // groups)
        env_s = self._step_seconds(n, seconds / 2)
        act_s = self._act_seconds(acting, seconds / 2)
        at_once = min(workers, self._cpus)
        stepping = B * env_s / at_once  # of one step of all, each CPU at its share
        calls = B / acting
        if kind in LOCAL:
            whole = stepping + calls * act_s / at_once
        elif groups == 1:
            whole = stepping + act_s
        else:  # one group steps while the agent acts for the other, where there is a CPU for it
            whole = (B * env_s + calls * act_s) / max(at_once, min(2, self._cpus))
        return Ceiling(B / whole, env_s, act_s)

    def close(self) -> None:
        """Close the environments."""
        for environment in self._environments.values():
            environment.close()

    def _step_seconds(self, n: int, seconds: float) -> float:
        if n not in self._environments:
            self._environments[n] = make_environment(self._subject.env_fn, self._subject.env_kwargs, n)
            self._environments[n].reset(seed=0)
            self._environments[n].action_space.seed(0)
        environment = self._environments[n]
        vector = hasattr(environment, "single_action_space")
        actions = [environment.action_space.sample() for _ in range(64)]

        def step() -> None:
            for action in actions:
                _, _, terminated, truncated, _ = environment.step(action)
                if not vector and (terminated or truncated):
                    environment.reset()

        return seconds_per_call(step, seconds) / len(actions) / (n if vector else 1)

    def _act_seconds(self, n: int, seconds: float) -> float:
        if n not in self._agents:
            self._agents[n] = self._subject.make_acting_agent(n)
        agent, inputs = self._agents[n], some_inputs(self._subject, n)
        state = agent.initial_state(n)
        with torch.inference_mode():
            return seconds_per_call(lambda: agent.step(inputs, state), seconds)


def seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """How long a call takes, on average over some seconds; called once before."""
    call()
    calls, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        call()
        calls += 1
    return elapsed / max(1, calls)


def some_inputs(subject: Subject, n: int) -> AgentInputs:
    """Inputs of an agent for `n` environments that were just reset."""
    observation_space, action_space = subject.spaces
    observation_space.seed(0)

    def rows(leaf: Any) -> torch.Tensor:
        array = np.asarray(leaf, ArraySpec.of(leaf).dtype)
        return torch.from_numpy(np.stack([array] * n))

    observation: Tree = tree_map(rows, observation_space.sample())
    prev_action: Tree = tree_map(lambda leaf: torch.zeros_like(rows(leaf)), action_space.sample())
    return AgentInputs(observation, prev_action, torch.zeros(n))
