"""Policy gradients with discrete actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces

from aiosampler.agents.base import AgentInputs, AgentStep
from aiosampler.agents.model_agent import ModelAgent, require_space

if TYPE_CHECKING:
    from aiosampler.specs.trees import Tree


_NOISE = 4096  # numbers that are drawn at once


class CategoricalPgAgent(ModelAgent):
    """Samples actions of a Discrete space; the model gives ``(logits [B, A], value [B])``.

    `agent_info` holds ``log_prob [B]`` of the action and ``value [B]``. Evaluation takes the most likely action.
    """

    cuda_graph = True
    _noise: list[torch.Tensor] | None = None  # for the steps to come

    def check_space(self, space: spaces.Space[Any]) -> None:
        """Accept a Discrete space."""
        require_space(space, spaces.Discrete, type(self).__name__)
        assert isinstance(space, spaces.Discrete)
        self._start = int(space.start)

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Draw an action for each environment."""
        (logits, value), state = self.forward(inputs, state)
        log_probs = torch.log_softmax(logits, -1)
        scores = log_probs
        if self.mode != "eval":
            # The Gumbel-max trick: the largest of log p_i - log e_i, with e_i exponential, is i with probability p_i.
            scores = log_probs - self._log_exponential(log_probs)
        action = scores.argmax(-1, keepdim=True)
        log_prob = log_probs.gather(-1, action).squeeze(-1)
        action = action.squeeze(-1)
        if self._start:
            action += self._start
        return AgentStep(action, {"log_prob": log_prob, "value": value}, state)

    def _log_exponential(self, like: torch.Tensor) -> torch.Tensor:
        """Logarithms of exponential noise in the shape of `like`; on the CPU drawn for many steps at once.

        The three operations that make it take as long as a layer of a small model.
        """
        if self._noise:
            noise = self._noise.pop()
            if noise.shape == like.shape:
                return noise
        if like.device.type != "cpu" or like.numel() * 2 > _NOISE:  # there it may be captured in a graph, or is large
            return torch.empty_like(like).exponential_().log_()
        self._noise = list(like.new_empty((_NOISE // like.numel(), *like.shape)).exponential_().log_())
        return self._noise.pop()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_noise": None}  # or copies would draw the same

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The model's value ``[B]``."""
        (_, value), _ = self.forward(inputs, state)
        return value  # type: ignore[no-any-return] # a model's outputs have no static type
