"""What the ready agents share: a model from a factory, recurrent or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from torch import nn

from aiosampler.agents.base import Agent, AgentInputs
from aiosampler.errors import ConfigError

if TYPE_CHECKING:
    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.trees import Tree

ModelFn = Callable[[gym.Space[Any], gym.Space[Any]], nn.Module]


class ModelAgent(Agent):
    """An agent around ``model_fn(observation_space, action_space)``.

    Args:
        model_fn: Builds the module. It is called as ``module(observation)``, or, with `recurrent`, as
            ``module(observation, prev_action, prev_reward, state)``, and gives what the agent's class says, with the
            new state behind it if it is recurrent. A recurrent module also has ``initial_state(batch_size)``.
        recurrent: Whether the module has a state; its leaves are ``[B, ...]``, batch first.
    """

    def __init__(self, model_fn: ModelFn, *, recurrent: bool = False) -> None:
        if not callable(model_fn):
            raise TypeError(f"model_fn must be callable with (observation_space, action_space), got {model_fn!r}")
        self.model_fn = model_fn
        self.recurrent = recurrent

    def initialize(self, spaces: Spaces) -> None:
        """Build the model, unless the agent came with one."""
        self.check_space(spaces.action)
        self.spaces = spaces
        if self.model is None:
            self.model = self.model_fn(spaces.observation, spaces.action)

    def check_space(self, space: gym.Space[Any]) -> None:
        """Refuse an action space that the agent cannot act in.

        Raises:
            ConfigError: It is of another kind.
        """

    def initial_state(self, batch_size: int) -> Tree:
        """What the model says, if it is recurrent."""
        if not self.recurrent:
            return None
        assert self.model is not None, "initialize() comes first"
        return self.model.initial_state(batch_size)  # type: ignore[operator] # nn.Module types attributes as tensors

    def forward(self, inputs: AgentInputs, state: Tree) -> tuple[Any, Tree]:
        """Run the model; return its outputs, and the new state."""
        assert self.model is not None, "initialize() comes first"
        if not self.recurrent:
            return self.model(inputs.observation), None
        *outputs, state = self.model(inputs.observation, inputs.prev_action, inputs.prev_reward, state)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), state


def require_space(space: gym.Space[Any], kind: type[gym.Space[Any]], agent: str) -> None:
    """Refuse an action space that is not of `kind`.

    Raises:
        ConfigError: It is of another kind.
    """
    if not isinstance(space, kind):
        raise ConfigError(f"{agent} acts in a {kind.__name__} action space; this environment has {space!r}")
