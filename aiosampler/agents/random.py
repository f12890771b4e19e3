"""An agent without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space

from aiosampler.agents.base import Agent, AgentInputs, AgentStep
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    import gymnasium as gym

    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.trees import Tree


class RandomAgent(Agent):
    """Draws from the action space, whatever its kind; for baselines, and to fill a replay buffer.

    It takes no module and has no `agent_info`. Its values are zeros.

    Example:
        >>> import torch
        >>> from gymnasium import spaces
        >>> from aiosampler import AgentInputs, RandomAgent, Spaces
        >>> agent = RandomAgent()  # for a sampler, which does what follows here
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.MultiDiscrete([2, 5])))
        >>> action, agent_info, state = agent.step(AgentInputs(torch.zeros(3, 4), None, torch.zeros(3)), None)
        >>> action.shape
        torch.Size([3, 2])
    """

    def initialize(self, spaces: Spaces) -> None:
        """Remember the action space."""
        self._space = spaces.action
        self._batched: dict[int, gym.Space[Any]] = {}

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Draw an action for each environment."""
        # Seeded by torch, whose generator the sampler keeps apart for training and evaluation.
        n = inputs.prev_reward.shape[0]
        if n not in self._batched:
            self._batched[n] = batch_space(self._space, n)
        space = self._batched[n]
        space.seed(int(torch.randint(2**31, ()).item()))
        return AgentStep(tree_map(_tensor, space.sample()), None, None)

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """Zeros: a random agent expects nothing."""
        return torch.zeros_like(inputs.prev_reward)


def _tensor(drawn: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(drawn, ArraySpec.of(drawn).dtype))  # a space may have another byte order
