"""An agent without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space

from aiosampler.agents.agent import Agent, AgentInputs, AgentStep
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    import gymnasium as gym

    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.trees import Tree


class RandomAgent(Agent):
    """Draws from the action space, whatever its kind; for baselines, and to fill a replay buffer.

    It has no model and no `agent_info`, and its values are zeros. If environments tell which actions are legal, by an
    ``"action_mask"`` among the `env_info_keys` or in their observations, it takes legal ones.

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
        # Seeded from torch's generator, of which the sampler has separate states for training and evaluation.
        n = inputs.prev_reward.shape[0]
        if n not in self._batched:
            self._batched[n] = batch_space(self._space, n)
        seed = int(torch.randint(2**31, ()).item())
        masks = action_masks(inputs)
        if masks is None:
            self._batched[n].seed(seed)
            return AgentStep(_tensors(self._batched[n].sample()))
        self._space.seed(seed)
        drawn = [
            self._space.sample(tree_map(lambda leaf, i=i: leaf[i].numpy().astype(np.int8), masks)) for i in range(n)
        ]
        return AgentStep(_tensors(tree_map(lambda *leaves: np.stack(leaves), *drawn)))

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """Zeros ``[B]``."""
        return torch.zeros_like(inputs.prev_reward)


def action_masks(inputs: AgentInputs) -> Tree:
    """The masks of legal actions ``[B, ...]`` under the key ``"action_mask"``; None if there are none.

    Args:
        inputs: The agent's inputs; a mask in `env_info` takes precedence over one in the observation.
    """
    for given in (inputs.env_info, inputs.observation):
        if isinstance(given, dict) and "action_mask" in given:
            return given["action_mask"]
    return None


def _tensors(tree: Tree) -> Tree:
    # Converted, since a space may have another byte order than torch's
    return tree_map(lambda leaf: torch.from_numpy(np.asarray(leaf, ArraySpec.of(leaf).dtype)), tree)
