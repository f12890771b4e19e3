"""Making environments, agents and trajectory infos from the user's objects."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.environment_checks import check_vector, needs_loop
from aiosampler.collectors.environments import AgentFault, fault_of, make_environment
from aiosampler.errors import ConfigError, text_of
from aiosampler.specs.context import CONTEXT, NUM_ENVS, EnvContext, takes
from aiosampler.specs.env_kwargs import kwargs_of
from aiosampler.specs.registry import unpack_registry
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.specs.torch_settings import apply_torch_settings
from aiosampler.workers.random_streams import seed_generators

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.payload import Payload
    from aiosampler.specs.arrays import Spaces


def share_settings(payload: Payload) -> None:
    """Make settings of the user's process those of this one: torch's, and Gymnasium's registry."""
    share_torch_settings(payload)
    packed = None if payload.live else payload.load("registry")  # the user's process itself has everything registered
    if packed is not None:
        unpack_registry(packed)


def share_torch_settings(payload: Payload) -> None:
    """Make those settings of torch in the user's process that change results those of this one."""
    if not payload.live:
        apply_torch_settings(payload.load("torch_settings"))


def build_environment(
    payload: Payload, context: EnvContext | None, b: int | None = None, *, coroutines: bool | None = None
) -> Any:
    """Build an environment; evaluation environments take ``eval_env_kwargs`` in place of ``env_kwargs``.

    Args:
        payload: The user's objects.
        context: Which environment it is; None for the example, which gets the arguments of environment 0.
        b: Its index in this sampler; None for the example.
        coroutines: Whether the example needed an event loop; None if this is the example.

    Returns:
        The environment or, if it needs an event loop, the argument for `CoroutineEnvironment.settle`.

    Raises:
        EnvironmentFault: `env_fn` raised, or its result is not an environment.
    """
    evaluation = context is not None and context.evaluation
    with fault_of("calling env_fn", b, evaluation):
        env_fn, given = payload.load("env_fn"), payload.load("eval_env_kwargs") if evaluation else None
        kwargs = kwargs_of(payload.load("env_kwargs") if given is None else given, b or 0)
        if takes(env_fn, CONTEXT):
            kwargs.setdefault(CONTEXT, context)
        made = make_environment(env_fn, kwargs)
        if coroutines is not None and needs_loop(made) != coroutines:
            kinds = "methods that are coroutines", "plain methods"
            if inspect.iscoroutine(made):
                made.close()
            raise TypeError(
                f"env_fn returned an environment with {kinds[coroutines]}, and the example had "
                f"{kinds[not coroutines]}; environments of both kinds do not mix in one sampler"
            )
        return made


def build_vector(payload: Payload, n: int, contexts: Sequence[EnvContext], first: int | None = None) -> Any:
    """Build a vector environment.

    Args:
        payload: The user's objects.
        n: Number of its environments.
        contexts: The contexts of its environments; empty for the example.
        first: The index in this sampler of the first of them; None for the example.

    Raises:
        EnvironmentFault: `env_fn` raised, or its result is not a vector environment of this size.
    """
    context = None
    if contexts:
        context = dataclasses.replace(contexts[0], seeds=tuple(context.seed for context in contexts))
    evaluation = context is not None and context.evaluation
    with fault_of("calling env_fn", first, evaluation, n - 1):
        env_fn, given = payload.load("env_fn"), payload.load("eval_env_kwargs") if evaluation else None
        kwargs = kwargs_of(payload.load("env_kwargs") if given is None else given, 0)
        if takes(env_fn, CONTEXT):
            kwargs.setdefault(CONTEXT, context)
        return check_vector(env_fn(**{**kwargs, NUM_ENVS: n}), n)


def build_agent(payload: Payload, spaces: Spaces, seed: int) -> Agent:
    """A copy of the user's agent, whose model is built with the same settings and random numbers in every process.

    Raises:
        AgentFault: The agent raised. A `ConfigError` is passed on.
    """
    share_torch_settings(payload)
    agent: Agent = payload.load("agent")
    seed_generators(stream_seed(seed, Stream.AGENT_INIT))
    try:
        agent.initialize(spaces)
    except ConfigError:
        raise
    except BaseException as exc:  # as in `fault_of`
        raise AgentFault(f"the agent raised {type(exc).__name__} in initialize(): {text_of(exc)}") from exc
    return agent


def traj_info_factory(payload: Payload, kind: type[TrajInfo]) -> Callable[[], TrajInfo]:
    """Return a function that makes the trajectory info of a new episode.

    Args:
        payload: The user's objects.
        kind: The `traj_info_cls` of the payload, loaded once: each loading may make another class.
    """
    return functools.partial(kind, **(payload.load("traj_info_kwargs") or {}))
