"""Policy gradients with continuous actions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces

from aiosampler.agents.agent import AgentInputs, AgentStep
from aiosampler.agents.model_agent import ModelAgent, require_space

if TYPE_CHECKING:
    from aiosampler.specs.trees import Tree

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class GaussianPgAgent(ModelAgent):
    """Samples actions of a Box space; the module gives ``(mean [B, ...], log_std [B, ...], value [B])``.

    ``model_fn(observation_space, action_space)`` builds the module. It is called as ``module(observation)``, with a
    tree of tensors ``[B, ...]`` in the dtypes of the space, and returns floats: mean and logarithm of the standard
    deviation of each number of an action, both in the shape ``[B, *action_space.shape]``, and the estimated value of
    each environment. With ``recurrent=True`` it is called as ``module(observation, prev_action, prev_reward, state)``,
    returns ``(mean, log_std, value, state)``, and has a method ``initial_state(batch_size)``; the state is a tree of
    tensors ``[B, ...]``, batch first. B differs between calls.

    The action is the sample clamped to the bounds of the space. `agent_info` holds the ``sample [B, ...]`` as it was
    drawn, its ``log_prob [B]`` and ``value [B]``. Evaluation takes the mean.

    Args:
        model_fn: See above.
        recurrent: Whether the module has a state.
        trace: Whether the module is traced where it acts, see `CategoricalPgAgent`.

    Raises:
        AgentError: When the sampler starts, if an output has another shape, such as a value ``[B, 1]``, or a log_std
            that is the same for all environments and was not expanded.

    Example:
        >>> import torch
        >>> from gymnasium import spaces
        >>> from torch import nn
        >>> from aiosampler import AgentInputs, GaussianPgAgent, Spaces
        >>> class ActorCritic(nn.Module):
        ...     def __init__(self, observation_space, action_space):
        ...         super().__init__()
        ...         self.mean = nn.Linear(observation_space.shape[0], action_space.shape[0])
        ...         self.log_std = nn.Parameter(torch.zeros(action_space.shape[0]))
        ...         self.value = nn.Linear(observation_space.shape[0], 1)
        ...
        ...     def forward(self, observation):
        ...         mean = self.mean(observation)
        ...         return mean, self.log_std.expand_as(mean), self.value(observation).squeeze(-1)
        >>> agent = GaussianPgAgent(ActorCritic)  # for a sampler, which does what follows here
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,))))
        >>> action, agent_info, state = agent.step(AgentInputs(torch.zeros(3, 4), None, torch.zeros(3)), None)
        >>> action.shape, agent_info["sample"].shape, agent_info["log_prob"].shape, agent_info["value"].shape
        (torch.Size([3, 2]), torch.Size([3, 2]), torch.Size([3]), torch.Size([3]))

        With a state:

        >>> class Recurrent(ActorCritic):
        ...     def __init__(self, observation_space, action_space):
        ...         super().__init__(spaces.Box(-1, 1, (32,)), action_space)
        ...         self.cell = nn.GRUCell(observation_space.shape[0], 32)
        ...
        ...     def initial_state(self, batch_size):
        ...         return torch.zeros(batch_size, 32)
        ...
        ...     def forward(self, observation, prev_action, prev_reward, state):
        ...         state = self.cell(observation, state)
        ...         return *super().forward(state), state
        >>> agent = GaussianPgAgent(Recurrent, recurrent=True)
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,))))
        >>> inputs = AgentInputs(torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(3))
        >>> agent.step(inputs, agent.initial_state(3)).state.shape
        torch.Size([3, 32])
    """

    def check_space(self, space: spaces.Space[Any]) -> None:
        """Accept a Box space."""
        require_space(space, spaces.Box, type(self).__name__)
        assert isinstance(space, spaces.Box)
        self._low, self._high = torch.as_tensor(space.low), torch.as_tensor(space.high)

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Mean and log_std of each number of an action, and a value."""
        shape = tuple(self._low.shape)
        return {"mean": shape, "log_std": shape, "value": ()}

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
