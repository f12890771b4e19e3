"""Agents made of the `Agent` classes of CleanRL's PPO scripts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiosampler.agents.agent import Agent, AgentInputs, AgentStep

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.trees import Tree


class CleanRlAgent(Agent):
    """An agent around a class like that of CleanRL's ``ppo.py``, ``ppo_atari.py`` and ``ppo_continuous_action.py``.

    That is a module ``Agent(envs)``, which reads ``envs.single_observation_space`` and ``single_action_space``, with
    ``get_value(x)`` ``[B, 1]`` and ``get_action_and_value(x, action=None)``: action, log probability, entropy, value.
    It gets observations as float32, as in those scripts. Evaluation also draws its actions. Continuous actions are not
    bounded: wrap the environment in Gymnasium's `ClipAction`, as those scripts do.

    `agent_info` holds ``log_prob [B]``, ``entropy [B]`` and ``value [B]``.

    Args:
        agent_cls: The class; called in each process that has the agent.

    Raises:
        TypeError: It is no class or function.
    """

    def __init__(self, agent_cls: Callable[[Any], nn.Module]) -> None:
        if not callable(agent_cls) or (hasattr(agent_cls, "state_dict") and not isinstance(agent_cls, type)):
            raise TypeError(f"agent_cls must be the class of the agent, called with envs; got {agent_cls!r}")
        self.agent_cls = agent_cls

    def initialize(self, spaces: Spaces) -> None:
        """Build the module."""
        if self.model is None:
            envs = SimpleNamespace(single_observation_space=spaces.observation, single_action_space=spaces.action)
            self.model = self.agent_cls(envs)

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Draw an action for each environment."""
        model: Any = self.model
        action, log_prob, entropy, value = model.get_action_and_value(inputs.observation.float())
        return AgentStep(action, {"log_prob": log_prob, "entropy": entropy, "value": value.flatten()})

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The critic's values ``[B]``."""
        model: Any = self.model
        values: torch.Tensor = model.get_value(inputs.observation.float())
        return values.flatten()
