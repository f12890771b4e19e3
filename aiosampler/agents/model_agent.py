"""The base class of the ready agents: an agent around a model that a factory builds, recurrent or not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from torch import nn

from aiosampler.agents.agent import Agent, AgentInputs
from aiosampler.agents.traced import TracedModule
from aiosampler.errors import AgentError, ConfigError
from aiosampler.specs.arguments import as_bool

if TYPE_CHECKING:
    from aiosampler.specs.arrays import Spaces
    from aiosampler.specs.trees import Tree

ModelFn = Callable[[gym.Space[Any], gym.Space[Any]], nn.Module]


class ModelAgent(Agent):
    """An agent around ``model_fn(observation_space, action_space)``.

    Args:
        model_fn: Builds the module. It is called as ``module(observation)``, or, with `recurrent`, as
            ``module(observation, prev_action, prev_reward, state)``, and gives what the agent's class says, with the
            new state as the last item if it is recurrent. A recurrent module also has ``initial_state(batch_size)``.
            The tensors that it gets have a leading axis of n environments, and the dtypes of the spaces; n is not
            always B.
        recurrent: Whether the module has a state; its leaves are ``[B, ...]``, batch first.
        trace: Whether the module is traced (`torch.jit.trace`) where it acts on the CPU, which takes a fifth off the
            step of an agent with a small one. It must do the same operations at each call, whatever it is given, and
            keep nothing in between.
    """

    _traced: TracedModule | None = None

    def __init__(self, model_fn: ModelFn, *, recurrent: bool = False, trace: bool = False) -> None:
        if not callable(model_fn):
            raise TypeError(f"model_fn must be callable with (observation_space, action_space), got {model_fn!r}")
        if isinstance(model_fn, nn.Module):  # callable, too, which would fail only where it is called
            raise TypeError(
                "model_fn must build the module when it is called with (observation_space, action_space), got a "
                f"{type(model_fn).__name__}; give its class, or a function that returns it"
            )
        self.model_fn = model_fn
        self.recurrent, self.trace = as_bool("recurrent", recurrent), as_bool("trace", trace)

    def initialize(self, spaces: Spaces) -> None:
        """Build the model, unless the agent came with one."""
        self.check_space(spaces.action)
        self.spaces = spaces
        if self.model is None:
            self.model = self.model_fn(spaces.observation, spaces.action)
            if not isinstance(self.model, nn.Module):
                raise TypeError(f"model_fn must return a torch.nn.Module, it returned {self.model!r}")

    def check_space(self, space: gym.Space[Any]) -> None:
        """Refuse an action space that the agent cannot act in.

        Raises:
            ConfigError: It is of another kind.
        """

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the module's outputs, in order, with their shapes after the axis B; {} skips the check."""
        return {}

    def check_outputs(self, inputs: AgentInputs, state: Tree) -> None:
        """Refuse a module whose outputs have other shapes than `output_shapes`.

        Raises:
            AgentError: An output has another shape.
        """
        expected, n = self.output_shapes(), inputs.prev_reward.shape[0]
        if not expected:
            return
        given, _ = self.forward(inputs, state)
        outputs = given if isinstance(given, tuple | list) else (given,)
        who = f"the model of {type(self).__name__}"
        if len(outputs) != len(expected) or not all(isinstance(output, torch.Tensor) for output in outputs):
            wanted = ", ".join(f"{name} {_shape('B', shape)}" for name, shape in expected.items())
            got = ", ".join(_kind(output) for output in outputs)
            raise AgentError(f"{who} must give the tensors ({wanted}){_STATE * self.recurrent}, it gave ({got})")
        for (name, shape), output in zip(expected.items(), outputs, strict=True):
            if output.shape != (n, *shape):
                raise AgentError(
                    f"{who} gave {name} with the shape {list(output.shape)} for {n} environments, expected "
                    f"{_shape(n, shape)}{_advice(name, tuple(output.shape), (n, *shape))}"
                )

    def initial_state(self, batch_size: int) -> Tree:
        """The initial state of the model ``[batch_size, ...]``, None if it is not recurrent."""
        if not self.recurrent:
            return None
        assert self.model is not None, "initialize() comes first"
        return self.model.initial_state(batch_size)  # type: ignore[operator] # nn.Module types attributes as tensors

    def forward(self, inputs: AgentInputs, state: Tree) -> tuple[Any, Tree]:
        """Run the model; return its outputs, and the new state."""
        assert self.model is not None, "initialize() comes first"
        call: Any = self.model
        if self.trace and self.mode != "train" and torch.is_inference_mode_enabled():
            if self._traced is None or self._traced.module is not self.model:
                self._traced = TracedModule(self.model)
            call = functools.partial(self._traced, len(inputs.prev_reward))
        if not self.recurrent:
            return call(inputs.observation), None
        *outputs, state = call(inputs.observation, inputs.prev_action, inputs.prev_reward, state)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_traced": None}  # a trace belongs to the module in its process


_STATE = " and the new state behind them"


def _shape(n: object, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, (n, *shape)))}]"


def _kind(output: Any) -> str:
    return f"tensor {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__


def _advice(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Advice how to turn one shape into the other, empty if there is no obvious way."""
    if got == (*expected, 1):
        return f": return {name}.squeeze(-1)"
    if got == expected[1:] or (len(got) == len(expected) and got[0] == 1 and got[1:] == expected[1:]):
        return f": return {name}.expand({', '.join(['len(observation)', *('-1' for _ in expected[1:])])})"
    if tuple(size for size in got if size != 1) == tuple(size for size in expected if size != 1):
        return f": return {name}.reshape({', '.join(['-1', *map(str, expected[1:])])})"
    return ", one row for each environment"


def require_space(space: gym.Space[Any], kind: type[gym.Space[Any]], agent: str) -> None:
    """Refuse an action space that is not of `kind`.

    Raises:
        ConfigError: It is of another kind.
    """
    if not isinstance(space, kind):
        raise ConfigError(f"{agent} acts in a {kind.__name__} action space; this environment has {space!r}")
