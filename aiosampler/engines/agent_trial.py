"""Trying out an agent on copies of one example observation, to learn the specs of its outputs and check them."""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.adopted import TrialWatch
from aiosampler.agents.agent import Agent, AgentInputs
from aiosampler.collectors.agent_answers import cast_to
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import about_the_model, call_agent
from aiosampler.errors import AgentError, text_of
from aiosampler.specs.arrays import ArraySpec, batched
from aiosampler.specs.trees import Tree, tree_items, tree_leaves, tree_map, tree_structure

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tried(NamedTuple):
    """What an agent returned for one environment: trees of arrays."""

    action: Tree
    agent_info: Tree
    state: Tree  # the initial one
    value: Tree  # None if values are not recorded


class Example(NamedTuple):
    """The inputs that an agent is tried out with: of one environment, trees of arrays."""

    observation: Tree
    prev_action: Tree
    env_info: dict[str, Tree]
    some: bool = False  # whether the agent will act for subsets of the environments


def try_agent(agent: Agent, B: int, example: Example, action_specs: Tree, *, with_value: bool) -> Tried:
    """Step the agent on B copies of an example, and on B + 1, to distinguish the axis B from other axes of that size.

    Args:
        agent: An initialised agent; it is not used afterwards.
        B: Number of environments.
        example: The inputs.
        action_specs: Tree of `ArraySpec` of one action.
        with_value: Whether to call ``agent.value``.

    Raises:
        AgentFault: It raised, returned what does not fit, or changed its model.
    """
    watch = None if agent.model is None else TrialWatch(agent.model)
    with torch.inference_mode():
        tried, answers = _try(agent, B, example, action_specs, with_value=with_value)
        if example.some:
            _try_some(agent, B, example)
    with about_the_model():
        if watch is not None:
            watch.verify(agent.model)
    with torch.inference_mode(), contextlib.suppress(_Unable):
        _try_another_size(agent, answers, B + 1, example)
    return tried


class _Unable(Exception):
    """The agent raised, maybe since it supports only one batch size."""


def _try(
    agent: Agent, B: int, example: Example, action_specs: Tree, *, with_value: bool
) -> tuple[Tried, dict[str, Tree]]:
    """Call the agent once; return its outputs for one environment, and all outputs ``[B, ...]``."""
    inputs = _copies(example, B)
    call_agent("collector_initialize()", agent.collector_initialize, B, range(B))
    call_agent("sample_mode()", agent.sample_mode, 0)
    initial = call_agent("initial_state()", agent.initial_state, B)
    if agent.recurrent and initial is None:
        raise AgentFault("the agent says that it is recurrent, but its initial_state() is None")
    _check_rows(initial, "initial_state()", B)
    with _hints(agent, inputs):
        _check_outputs(agent, inputs, initial)
        step = call_agent("step()", agent.step, inputs, initial)
    if inspect.iscoroutine(step):
        step.close()
        raise AgentFault(
            "step() must not be async: agents are called, and what they wait for holds up all environments"
        )
    if not isinstance(step, tuple) or len(step) != 3:
        raise AgentFault(f"step() must return an AgentStep(action, agent_info, state), got {step!r}")
    _check(step[0], batched(action_specs, B), "action")
    answers = {"agent_info": step[1], "initial_state()": initial, "state": step[2]}
    agent_info, initial, state = (_one(tree, what, B) for what, tree in answers.items())
    _check(state, tree_map(ArraySpec.of, initial), "state")
    for (path, leaf), begins in zip(tree_items(state), tree_leaves(initial), strict=True):
        if leaf.dtype != begins.dtype:
            raise AgentFault(
                f"the agent returned state{path} in {leaf.dtype}, initial_state() gives it in {begins.dtype}: "
                "they must be the same"
            )
    value = None
    if with_value:
        batch = call_agent("value()", agent.value, inputs, tree_map(torch.clone, step[2]))
        if not isinstance(batch, torch.Tensor) or batch.shape != (B,):
            shape = list(batch.shape) if isinstance(batch, torch.Tensor) else batch
            advice = ", so squeeze(-1) it" if isinstance(batch, torch.Tensor) and batch.shape == (B, 1) else ""
            raise AgentFault(f"value() must return a tensor of the shape [{B}], got {shape!r}{advice}")
        value = _one(batch, "value", B)
    return Tried(_one(step[0], "action", B), agent_info, initial, value), answers


def _try_some(agent: Agent, B: int, example: Example) -> None:
    """Let the agent act for only the last of the B environments.

    Raises:
        AgentFault: It raised, or returned what does not fit.
    """
    inputs = _copies(example, 1)._replace(environments=torch.tensor([B - 1]))
    state = tree_map(lambda leaf: leaf[B - 1 :], agent.initial_state(B))
    try:
        step = agent.step(inputs, state)
        for what, tree in (("action", step[0]), ("agent_info", step[1]), ("state", step[2])):
            _one(tree, what, 1)
    except Exception as exc:
        raise AgentFault(
            f"the agent raised {type(exc).__name__} when it acted for one of {B} environments: {text_of(exc)}; with "
            "lockstep=False it acts for those that are ready, and inputs.environments says which these are"
        ) from exc


def _try_another_size(agent: Agent, answers: dict[str, Tree], n: int, example: Example) -> None:
    """Call the agent for n environments, and compare the shapes with those for another number.

    Raises:
        AgentFault: An output does not have one row for each environment.
        _Unable: It raised.
    """
    inputs = _copies(example, n)
    try:
        agent.collector_initialize(n, range(n))
        agent.sample_mode(0)
        initial = agent.initial_state(n)
        _check_outputs(agent, inputs, initial)
        _, agent_info, state = agent.step(inputs, initial)
    except AgentFault:
        raise
    except Exception as exc:
        raise _Unable from exc
    others = {"agent_info": agent_info, "initial_state()": initial, "state": state}
    for what, tree in others.items():
        _one(tree, what, n)
        for (path, leaf), before in zip(tree_items(tree), tree_leaves(answers[what]), strict=False):
            if leaf.shape[1:] != before.shape[1:]:
                raise AgentFault(
                    f"the agent returned {what}{path} with the shape {list(before.shape)} for {n - 1} environments and "
                    f"{list(leaf.shape)} for {n}; only the first axis counts the environments"
                )


def _copies(example: Example, n: int) -> AgentInputs:
    def repeat(leaf: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(leaf)).expand(n, *np.shape(leaf)).contiguous()

    observation, prev_action, env_info = tree_map(repeat, tuple(example[:3]))
    environments = torch.arange(n) if example.some else None
    return AgentInputs(observation, prev_action, torch.zeros(n, dtype=torch.float32), env_info or None, environments)


def _check_outputs(agent: Agent, inputs: AgentInputs, state: Tree) -> None:
    try:
        agent.check_outputs(inputs, tree_map(torch.clone, state))
    except AgentError as exc:
        raise AgentFault(str(exc)) from exc
    except Exception as exc:
        raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {exc}") from exc


@contextlib.contextmanager
def _hints(agent: Agent, inputs: AgentInputs) -> Iterator[None]:
    """Add advice to errors of a model whose inputs have another dtype than its parameters."""
    try:
        yield
    except AgentFault as exc:
        cause, model = exc.__cause__, agent.model
        if model is None or not isinstance(cause, RuntimeError) or not re.search(_DTYPE_TROUBLE, str(cause)):
            raise
        wanted = {p.dtype for p in model.parameters() if p.is_floating_point()}
        given = {leaf.dtype for leaf in tree_leaves(inputs.observation)} - wanted
        if not wanted or not given:
            raise
        raise AgentFault(
            f"{exc}; the observation is {_dtypes(given)} and the model's parameters are {_dtypes(wanted)}: convert it "
            "in the model, as by observation.float(), or in the environment, by "
            "gymnasium.wrappers.DtypeObservation(env, np.float32)"
        ) from cause


_DTYPE_TROUBLE = r"dtype|scalar type|Input type|data type"


def _dtypes(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _one(tree: Tree, what: str, B: int) -> Tree:
    """The first row of a tree of tensors ``[B, ...]``, as arrays."""
    _check_rows(tree, what, B)
    try:
        return tree_map(lambda leaf: leaf[0].numpy().copy(), tree)
    except TypeError as exc:
        raise AgentFault(f"the agent returned {what} with a dtype that NumPy does not have: {exc}") from exc


def _check_rows(tree: Tree, what: str, B: int) -> None:
    """Refuse a tree that has other leaves than tensors ``[B, ...]``."""
    for path, leaf in tree_items(tree):
        if not isinstance(leaf, torch.Tensor):
            kind = "a NumPy array" if isinstance(leaf, np.ndarray) else repr(leaf)
            kind = f"a {type(leaf).__name__}" if isinstance(leaf, list | set) else kind
            raise AgentFault(
                f"the agent returned {what}{path} that is {kind}: it must be a tensor, or a dict, tuple or named tuple "
                f"of tensors, with one row for each of {B} environments"
            )
        if leaf.shape[:1] != (B,):
            raise AgentFault(
                f"the agent returned {what}{path} that has not one row for each of {B} environments: its shape is "
                f"{list(leaf.shape)}"
            )


def _check(tree: Tree, specs: Tree, what: str) -> None:
    if tree_structure(tree) != tree_structure(specs):
        raise AgentFault(
            f"the agent returned {what} with the structure {tree_structure(tree)}, expected {tree_structure(specs)}"
        )
    for (path, leaf), (_, spec) in zip(tree_items(tree), tree_items(specs), strict=True):
        array = np.asarray(leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf)
        got = ArraySpec.of(array)
        if got.shape != spec.shape or not np.can_cast(got.dtype, spec.dtype, "same_kind"):
            raise AgentFault(f"the agent returned {what}{path} as {got}, expected {spec}")
        cast_to(array, spec.dtype, f"{what}{path}")
