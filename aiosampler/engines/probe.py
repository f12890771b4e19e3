"""Trying out an environment and an agent once, to learn what a step consists of; both are thrown away after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.environment_checks import check_reset, check_step, spaces_of
from aiosampler.collectors.environments import fault_of
from aiosampler.collectors.recording import as_flag, as_reward, make_writer
from aiosampler.engines.agent_trial import try_agent
from aiosampler.errors import ConfigError
from aiosampler.specs.arrays import ArraySpec, space_specs
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.specs.trees import Tree, tree_items, tree_map
from aiosampler.workers.factories import build_agent, build_environment, share_registry
from aiosampler.workers.messages import Probed

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium as gym

    from aiosampler.options import Options

INFO_SEARCH_STEPS = 1000


def probe(options: Options, phase: Callable[[str], None]) -> Probed:
    """Build an example environment and step it, initialise a copy of the agent and step it.

    Raises:
        EnvironmentFault: The environment cannot be built or stepped, or does not fit its spaces.
        AgentFault: The agent cannot be used.
        ConfigError: A space that is not supported, or `env_info_keys` that are never reported.
    """
    phase("building the example environment")
    share_registry(options.payload)
    env = build_environment(options.payload, None)
    try:
        phase("trying out the example environment")
        with fault_of("asking for its spaces", None):
            spaces = spaces_of(env)
        observation_specs = space_specs(spaces.observation, "observation")
        action_specs = space_specs(spaces.action, "action")
        observation, action, reward, ends, env_info = _try_environment(env, options, observation_specs)
    finally:
        with fault_of("closing", None):
            env.close()
    phase("trying out the agent")
    agent = build_agent(options.payload, spaces, options.seed)
    agent_info, state, value = try_agent(
        agent, options.batch.B, observation, action_specs, with_value=options.bootstrap_value
    )
    specs = StepSpecs(
        observation=observation_specs,
        action=action_specs,
        agent_info=_specs(agent_info),
        env_info=_specs(env_info),
        state=_specs(state),
        value=None if value is None else ArraySpec.of(value),
    )
    examples = {
        "observation": observation,
        "action": action,
        "reward": np.float32(reward),
        "terminated": np.bool_(ends[0]),
        "truncated": np.bool_(ends[1]),
        "agent_info": agent_info,
        "env_info": env_info,
    }
    return Probed(spaces, specs, examples)


def _try_environment(env: gym.Env[Any, Any], options: Options, observation_specs: Tree) -> tuple[Any, ...]:
    writer = make_writer(observation_specs, "observation")
    arrays = tree_map(lambda spec: np.zeros(spec.batched(1, 1).shape, spec.dtype), observation_specs)
    row = writer.rows(arrays)[0]
    missing, found, seen = set(options.env_info_keys), {}, set[str]()
    # Not the seed of the environment, or its "random" actions would be the numbers that it draws itself
    env.action_space.seed(stream_seed(options.seed, Stream.EXAMPLE_ACTIONS))
    with fault_of("resetting", None):
        writer.write(row, 0, check_reset(env.reset(seed=stream_seed(options.seed, Stream.EXAMPLE)))[0])
    for step in range(INFO_SEARCH_STEPS):
        with fault_of(f"taking random step {step}", None):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = check_step(env.step(action))
            writer.write(row, 0, observation)
            reward = as_reward(reward)
            terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
        seen.update(info)
        for key in missing & info.keys():
            found[key] = tree_map(np.asarray, info[key])
            missing.discard(key)
        if not missing:
            break
        if terminated or truncated:
            with fault_of("resetting", None):
                writer.write(row, 0, check_reset(env.reset())[0])
    if missing:
        raise ConfigError(
            f"env_info_keys={list(options.env_info_keys)}: the environment did not report {sorted(missing)} in "
            f"{INFO_SEARCH_STEPS} random steps; it reported {sorted(seen) or 'nothing'}"
        )
    for path, leaf in tree_items(found):
        if leaf.dtype.kind not in "biuf":
            raise ConfigError(f"env_info_keys: info{path} is {leaf!r}, which is no number and no array of numbers")
    observation = tree_map(lambda array: array[0, 0].copy(), arrays)
    return (
        observation,
        action,
        reward,
        (terminated, truncated),
        {key: found[key] for key in options.env_info_keys},
    )


def _specs(tree: Tree) -> Tree:
    return tree_map(ArraySpec.of, tree)
