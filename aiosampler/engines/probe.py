"""Trying out an example environment and a copy of the agent, to learn the specs of a step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.agents.seeded_draws import SeededDraws
from aiosampler.collectors.environment_checks import needs_loop, spaces_of
from aiosampler.collectors.environments import fault_of
from aiosampler.engines.agent_trial import Example, try_agent
from aiosampler.engines.coroutine_trial import AwaitedExample
from aiosampler.engines.environment_trial import EnvironmentTrial
from aiosampler.engines.vector_trial import FirstOfVector, check_vector_options, try_vector
from aiosampler.memory.room import check_batches
from aiosampler.specs.arrays import ArraySpec, space_specs
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.context import NUM_ENVS, takes
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.specs.trees import Tree, tree_map
from aiosampler.workers.factories import build_agent, build_environment, build_vector, share_settings
from aiosampler.workers.messages import Probed
from aiosampler.workers.random_streams import undrawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.collectors.vector_environments import VectorTraits
    from aiosampler.options import Options


def probe(options: Options, phase: Callable[[str], None]) -> Probed:
    """Build an example environment, let a copy of the agent act on its observation, and step it.

    Raises:
        EnvironmentFault: The environment cannot be built or stepped, or does not fit its spaces.
        AgentFault: The agent cannot be used.
        ConfigError: A space is not supported, or one of the `env_info_keys` was never reported.
    """
    phase("building the example environment")
    share_settings(options.payload)
    env, vector = _example(options, phase)
    try:
        phase("trying out the example environment")
        with fault_of("asking for its spaces", None):
            spaces = spaces_of(env)
        observation_specs = space_specs(spaces.observation, "observation")
        action_specs = space_specs(spaces.action, "action")
        check_batches(options.batch, observation_specs, action_specs)  # before an agent gets so many observations
        trial = EnvironmentTrial(env, options, observation_specs)
        trial.reset()
        trial.find_infos()
        phase("trying out the agent")
        with SeededDraws(seed := stream_seed(options.seed, Stream.AGENT_INIT)):
            agent = build_agent(options.payload, spaces, options.seed)
        draws_apart = undrawn(seed)
        nulls = tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), action_specs)
        tried = try_agent(
            agent,
            options.batch.B,
            Example(trial.observation(), nulls, trial.env_info(), some=not options.lockstep),
            action_specs,
            with_value=options.bootstrap_value,
        )
        phase("stepping the example environment")
        reward, terminated, truncated = trial.step(tried.action)
    finally:
        with fault_of("closing", None):
            env.close()
    specs = StepSpecs(
        observation=observation_specs,
        action=action_specs,
        agent_info=_specs(tried.agent_info),
        env_info=trial.info_specs,
        state=_specs(tried.state),
        value=None if tried.value is None else ArraySpec.of(tried.value),
        policy_version=None if options.lockstep else ArraySpec((), np.dtype(np.int64)),
    )
    examples = {
        "observation": trial.observation(),
        "action": tried.action,
        "reward": np.float32(reward),
        "terminated": np.bool_(terminated),
        "truncated": np.bool_(truncated),
        "agent_info": tried.agent_info,
        "env_info": trial.env_info(),
    }
    return Probed(spaces, specs, examples, draws_apart, vector, isinstance(env, AwaitedExample))


def _example(options: Options, phase: Callable[[str], None]) -> tuple[Any, VectorTraits | None]:
    """Build the example environment; for a vector environment, also find out what it supports."""
    with fault_of("calling env_fn", None):
        makes_vectors = takes(options.payload.load("env_fn"), NUM_ENVS)
    if not makes_vectors:
        made = build_environment(options.payload, None)
        if not needs_loop(made):
            return made, None
        return AwaitedExample(made, phase, "user" if options.in_process else "sampler"), None
    share, evaluated = (-(-each // options.worker_count) for each in (options.batch.B, options.eval_n_envs))  # at most
    n = share if share > 1 else max(1, evaluated)  # one alone does not show whether several can be reset apart
    vector = build_vector(options.payload, n, ())
    try:
        traits = try_vector(vector, n, stream_seed(options.seed, Stream.EXAMPLE))
        check_vector_options(options, traits, vector, alone=share == 1)
        return FirstOfVector(vector, n, traits), traits
    except BaseException:
        with contextlib.suppress(Exception):
            vector.close()
        raise


def _specs(tree: Tree) -> Tree:
    return tree_map(ArraySpec.of, tree)
