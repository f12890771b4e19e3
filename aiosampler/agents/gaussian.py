"""Policy gradients with continuous actions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces

from aiosampler.agents.base import AgentInputs, AgentStep
from aiosampler.agents.model_agent import ModelAgent, require_space

if TYPE_CHECKING:
    from aiosampler.specs.trees import Tree

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class GaussianPgAgent(ModelAgent):
    """Samples actions of a Box space; the model gives ``(mean [B, ...], log_std [B, ...], value [B])``.

    The action is the sample clamped to the bounds of the space. `agent_info` holds the ``sample [B, ...]`` as it was
    drawn, its ``log_prob [B]`` and ``value [B]``. Evaluation takes the mean.
    """

    def check_space(self, space: spaces.Space[Any]) -> None:
        """Accept a Box space."""
        require_space(space, spaces.Box, type(self).__name__)
        assert isinstance(space, spaces.Box)
        self._low, self._high = torch.as_tensor(space.low), torch.as_tensor(space.high)

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Draw an action for each environment."""
        (mean, log_std, value), state = self.forward(inputs, state)
        noise = torch.zeros_like(mean) if self.mode == "eval" else torch.randn_like(mean)
        sample = mean + log_std.exp() * noise
        log_prob = (-0.5 * noise.square() - log_std - _HALF_LOG_TWO_PI).flatten(1).sum(-1)
        action = torch.clamp(sample, self._low.to(sample), self._high.to(sample))
        return AgentStep(action, {"sample": sample, "log_prob": log_prob, "value": value}, state)

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The model's value ``[B]``."""
        (_, _, value), _ = self.forward(inputs, state)
        return value  # type: ignore[no-any-return] # a model's outputs have no static type
