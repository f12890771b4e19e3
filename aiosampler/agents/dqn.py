"""Q-learning agents with epsilon-greedy exploration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces

from aiosampler.agents.agent import AgentInputs, AgentStep
from aiosampler.agents.model_agent import ModelAgent, ModelFn, require_space
from aiosampler.errors import ConfigError
from aiosampler.specs.arguments import as_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.specs.trees import Tree


class DqnAgent(ModelAgent):
    """Epsilon-greedy in a Discrete space of A actions; the module gives action values ``q [B, A]``.

    ``model_fn(observation_space, action_space)`` builds the module. It is called as ``module(observation)``, with a
    tree of tensors ``[B, ...]`` in the dtypes of the space, and returns the value of each action, floats. With
    ``recurrent=True`` it is called as ``module(observation, prev_action, prev_reward, state)``, returns
    ``(q, state)``, and has a method ``initial_state(batch_size)``; the state is a tree of tensors ``[B, ...]``, batch
    first. B differs between calls.

    `agent_info` holds ``q [B, A]``.

    Args:
        model_fn: See above.
        recurrent: Whether the module has a state.
        trace: Whether the module is traced where it acts, see `CategoricalPgAgent`.
        eps_init: Epsilon of the first batch.
        eps_final: Epsilon from batch `eps_itr_max` on; in between it falls linearly.
        eps_final_min: If given, environments have final epsilons of their own, spaced logarithmically from this one
            to `eps_final` over all B environments (Horgan et al. 2018, "Distributed Prioritized Experience Replay").
        eps_itr_max: The batch at which epsilon is final.
        eps_eval: Epsilon of evaluation.

    Raises:
        ConfigError: An epsilon is out of its range.
        TypeError: It is no number.
        AgentError: When the sampler starts, if the module's output has another shape.

    Example:
        >>> import torch
        >>> from gymnasium import spaces
        >>> from torch import nn
        >>> from aiosampler import AgentInputs, DqnAgent, Spaces
        >>> def q_network(observation_space, action_space):
        ...     inputs, outputs = observation_space.shape[0], int(action_space.n)
        ...     return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))
        >>> agent = DqnAgent(q_network, eps_itr_max=100)  # for a sampler, which does what follows here
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)))
        >>> action, agent_info, state = agent.step(AgentInputs(torch.zeros(3, 4), None, torch.zeros(3)), None)
        >>> action.shape, agent_info["q"].shape
        (torch.Size([3]), torch.Size([3, 2]))

        With a state:

        >>> class Recurrent(nn.Module):
        ...     def __init__(self, observation_space, action_space):
        ...         super().__init__()
        ...         self.cell, self.q = nn.LSTMCell(observation_space.shape[0], 32), nn.Linear(32, int(action_space.n))
        ...
        ...     def initial_state(self, batch_size):
        ...         return torch.zeros(batch_size, 32), torch.zeros(batch_size, 32)
        ...
        ...     def forward(self, observation, prev_action, prev_reward, state):
        ...         state = self.cell(observation, state)
        ...         return self.q(state[0]), state
        >>> agent = DqnAgent(Recurrent, recurrent=True)
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)))
        >>> inputs = AgentInputs(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
        >>> [leaf.shape for leaf in agent.step(inputs, agent.initial_state(3)).state]
        [torch.Size([3, 32]), torch.Size([3, 32])]
    """

    def __init__(
        self,
        model_fn: ModelFn,
        *,
        recurrent: bool = False,
        trace: bool = False,
        eps_init: float = 1.0,
        eps_final: float = 0.01,
        eps_final_min: float | None = None,
        eps_itr_max: int = 1000,
        eps_eval: float = 0.001,
    ) -> None:
        super().__init__(model_fn, recurrent=recurrent, trace=trace)
        self.eps_init = as_number("eps_init", eps_init, 0, 1)
        self.eps_final = as_number("eps_final", eps_final, 0, 1)
        self.eps_eval = as_number("eps_eval", eps_eval, 0, 1)
        self.eps_itr_max = as_number("eps_itr_max", eps_itr_max, 0)
        if eps_final_min is not None:
            eps_final_min = as_number("eps_final_min", eps_final_min, 0, self.eps_final)
            if eps_final_min == 0:
                raise ConfigError("eps_final_min must be above 0, as epsilons are spaced logarithmically from it")
        self.eps_final_min = eps_final_min
        self._final = torch.tensor(self.eps_final)
        self.epsilon = torch.tensor(self.eps_init)  # [] or [B]

    def check_space(self, space: spaces.Space[Any]) -> None:
        """Accept a Discrete space."""
        require_space(space, spaces.Discrete, type(self).__name__)
        assert isinstance(space, spaces.Discrete)
        self._start, self._n = int(space.start), int(space.n)

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The values of A actions."""
        return {"q": (self._n,)}

    def collector_initialize(self, global_B: int, env_ranks: Sequence[int]) -> None:
        """Choose the final epsilons of these environments."""
        if self.eps_final_min is not None:
            low, high = torch.tensor([self.eps_final_min, self.eps_final], dtype=torch.float64).log10().tolist()
            self._final = torch.logspace(low, high, global_B)[list(env_ranks)]

    def sample_mode(self, itr: int) -> None:
        """Follow the schedule of epsilon."""
        super().sample_mode(itr)
        progress = min(1.0, itr / self.eps_itr_max) if self.eps_itr_max > 0 else 1.0
        self.epsilon = self.eps_init + progress * (self._final - self.eps_init)

    def eval_mode(self, itr: int) -> None:
        """Take the epsilon of evaluation."""
        super().eval_mode(itr)
        self.epsilon = torch.tensor(self.eps_eval)

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Take the best action, or with probability epsilon any."""
        q, state = self.forward(inputs, state)
        action = q.argmax(-1)
        epsilon = self.epsilon
        if inputs.environments is not None and epsilon.ndim:
            epsilon = epsilon[inputs.environments]
        explore = torch.rand(action.shape, device=q.device) < epsilon.to(q.device)
        action = torch.where(explore, torch.randint_like(action, q.shape[-1]), action)
        if self._start:
            action += self._start
        return AgentStep(action, {"q": q}, state)

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The largest action value ``[B]``."""
        q, _ = self.forward(inputs, state)
        return q.amax(-1)  # type: ignore[no-any-return] # a model's outputs have no static type
