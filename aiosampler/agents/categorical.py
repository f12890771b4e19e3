"""Policy gradients with discrete actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces

from aiosampler.agents.agent import AgentInputs, AgentStep
from aiosampler.agents.model_agent import ModelAgent, require_space

if TYPE_CHECKING:
    from aiosampler.specs.trees import Tree


_NOISE = 4096  # numbers that are drawn in one call


class CategoricalPgAgent(ModelAgent):
    """Samples actions of a Discrete space of A actions; the module gives ``(logits [B, A], value [B])``.

    ``model_fn(observation_space, action_space)`` builds the module. It is called as ``module(observation)``, with a
    tree of tensors ``[B, ...]`` in the dtypes of the space, and returns the unnormalised log probabilities and the
    estimated value of each environment, floats. With ``recurrent=True`` it is called as
    ``module(observation, prev_action, prev_reward, state)``, returns ``(logits, value, state)``, and has a method
    ``initial_state(batch_size)``; the state is a tree of tensors ``[B, ...]``, batch first. B differs between calls.

    `agent_info` holds ``log_prob [B]`` of the action and ``value [B]``. Evaluation takes the most likely action.

    Args:
        model_fn: See above.
        recurrent: Whether the module has a state.
        trace: Whether the module is traced (`torch.jit.trace`) where it acts on the CPU, which takes a fifth off the
            step of an agent with a small one. It must do the same operations at each call, whatever it is given, and
            keep nothing in between. The outputs are the same, bit for bit; a module that cannot be traced is called as
            it is, after one line in the log at INFO.

    Raises:
        AgentError: When the sampler starts, if an output has another shape, such as a value ``[B, 1]``.

    Example:
        >>> import torch
        >>> from gymnasium import spaces
        >>> from torch import nn
        >>> from aiosampler import AgentInputs, CategoricalPgAgent, Spaces
        >>> class ActorCritic(nn.Module):
        ...     def __init__(self, observation_space, action_space):
        ...         super().__init__()
        ...         self.body = nn.Sequential(nn.Linear(observation_space.shape[0], 32), nn.Tanh())
        ...         self.logits, self.value = nn.Linear(32, int(action_space.n)), nn.Linear(32, 1)
        ...
        ...     def forward(self, observation):
        ...         hidden = self.body(observation)
        ...         return self.logits(hidden), self.value(hidden).squeeze(-1)
        >>> agent = CategoricalPgAgent(ActorCritic)  # for a sampler, which does what follows here
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)))
        >>> action, agent_info, state = agent.step(AgentInputs(torch.zeros(3, 4), None, torch.zeros(3)), None)
        >>> action.shape, agent_info["log_prob"].shape, agent_info["value"].shape
        (torch.Size([3]), torch.Size([3]), torch.Size([3]))

        With a state:

        >>> class Recurrent(nn.Module):
        ...     def __init__(self, observation_space, action_space):
        ...         super().__init__()
        ...         self.cell = nn.GRUCell(observation_space.shape[0], 32)
        ...         self.logits, self.value = nn.Linear(32, int(action_space.n)), nn.Linear(32, 1)
        ...
        ...     def initial_state(self, batch_size):
        ...         return torch.zeros(batch_size, 32)
        ...
        ...     def forward(self, observation, prev_action, prev_reward, state):
        ...         state = self.cell(observation, state)
        ...         return self.logits(state), self.value(state).squeeze(-1), state
        >>> agent = CategoricalPgAgent(Recurrent, recurrent=True)
        >>> agent.initialize(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2)))
        >>> inputs = AgentInputs(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
        >>> agent.step(inputs, agent.initial_state(3)).state.shape
        torch.Size([3, 32])
    """

    cuda_graph = True
    _noise: torch.Tensor | None = None  # [rows, A]: for the next steps
    _used = 0  # rows of it
    _ahead: list[torch.Tensor] | None = None  # the rows after those, last first, for steps with as many environments

    def check_space(self, space: spaces.Space[Any]) -> None:
        """Accept a Discrete space."""
        require_space(space, spaces.Discrete, type(self).__name__)
        assert isinstance(space, spaces.Discrete)
        self._start, self._n = int(space.start), int(space.n)

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The logits of A actions, and a value."""
        return {"logits": (self._n,), "value": ()}

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

        The three operations that draw it take as long as a layer of a small model.
        """
        if self._ahead and self._ahead[-1].shape == like.shape:
            self._used += like.shape[0]
            return self._ahead.pop()
        if like.device.type != "cpu" or like.numel() * 2 > _NOISE:  # it may be captured in a graph there, or is large
            return torch.empty_like(like).exponential_().log_()
        n, A = like.shape  # n differs from step to step where nobody waits for the slowest
        begin, end, noise = self._used, self._used + n, self._noise
        self._ahead = []
        if noise is None or end > len(noise) or noise.shape[1] != A or noise.dtype != like.dtype:
            noise = self._noise = like.new_empty((_NOISE // A, A)).exponential_().log_()
            begin, end = 0, n
            self._ahead = [*reversed(torch.split(noise[n:], n))]
        self._used = end
        return noise[begin:end]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_noise": None, "_ahead": None}  # or copies would use the same noise

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The model's value ``[B]``."""
        (_, value), _ = self.forward(inputs, state)
        return value  # type: ignore[no-any-return] # a model's outputs are not typed
