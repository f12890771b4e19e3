"""Trying out an environment: checks that its results fit its spaces, and finds the specs of its infos.

Only legal actions are taken: those of the agent or, while the keys of infos are searched for, random ones that the
environment's mask of legal actions allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiosampler.collectors.actions import action_mask, action_splitter, sample_action
from aiosampler.collectors.env_infos import EnvInfoWriter, absent, find
from aiosampler.collectors.environment_checks import check_reset, check_step
from aiosampler.collectors.environments import fault_of
from aiosampler.collectors.recording import as_flag, as_reward, make_writer
from aiosampler.errors import ConfigError
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.specs.trees import Tree, tree_items, tree_map

if TYPE_CHECKING:
    from aiosampler.options import Options

INFO_SEARCH_STEPS = 1000


class EnvironmentTrial:
    """Steps an example environment.

    Args:
        env: The environment.
        options: The sampler's arguments.
        observation_specs: Tree of `ArraySpec` of its observation.

    Attributes:
        info_specs: For each recorded key of the infos, its tree of `ArraySpec`, or None if it is not known yet.
    """

    def __init__(self, env: Any, options: Options, observation_specs: Tree) -> None:
        self._env, self._options = env, options
        self._writer = make_writer(observation_specs, "observation")
        self._arrays = tree_map(lambda spec: np.zeros((1, 1, *spec.shape), spec.dtype), observation_specs)
        self._row = self._writer.rows(self._arrays)[0]
        declared = options.env_info_keys
        self.info_specs: dict[str, Tree] = {key: spec for key, spec in declared.items() if spec is not None}
        self._missing = [key for key, spec in declared.items() if spec is None]
        self._reported: set[str] = set()
        self._info: Any = {}
        self._mask: Any = None
        # Another seed than the environment's, or the random actions would be correlated with what it draws
        env.action_space.seed(stream_seed(options.seed, Stream.EXAMPLE_ACTIONS))

    def reset(self) -> None:
        """Reset the environment, with the seed of the example."""
        self._reset(stream_seed(self._options.seed, Stream.EXAMPLE))

    def find_infos(self) -> None:
        """Step the environment at random until each key that was not declared has been reported.

        Raises:
            ConfigError: A key was never reported, or does not hold numbers.
        """
        for step in range(INFO_SEARCH_STEPS):
            if not self._missing:
                break
            with fault_of(f"taking random step {step}", None):
                _, terminated, truncated = self._step(sample_action(self._env.action_space, self._mask))
            if terminated or truncated:
                self._reset(None)
        if self._missing:
            raise ConfigError(
                f"env_info_keys={list(self._options.env_info_keys)}: the environment did not report "
                f"{sorted(self._missing)} in {INFO_SEARCH_STEPS} random steps; it reported "
                f"{sorted(self._reported) or 'nothing'}. Declare what is reported seldom, as in "
                f"env_info_keys={{{self._missing[0]!r}: np.float32}}"
            )
        self.info_specs = {key: self.info_specs[key] for key in self._options.env_info_keys}

    def step(self, action: Tree) -> tuple[float, bool, bool]:
        """Take the agent's step, a tree of arrays; return reward, terminated and truncated."""
        (chosen,) = action_splitter(self._env.action_space)(tree_map(lambda leaf: np.asarray(leaf)[None], action))
        with fault_of("taking the agent's first step", None):
            return self._step(chosen)

    def observation(self) -> Tree:
        """A copy of the last observation, as arrays."""
        return tree_map(lambda array: array[0, 0].copy(), self._arrays)

    def env_info(self) -> dict[str, Tree]:
        """The recorded keys of the last info, as arrays; zeros where a key is absent."""
        values = tree_map(lambda spec: np.zeros((1, 1, *spec.shape), spec.dtype), self.info_specs)
        writer = EnvInfoWriter(self.info_specs)
        rows = writer.rows(values, {key: np.zeros((1, 1), np.bool_) for key in self.info_specs})
        with fault_of("recording its info", None):
            for row in rows:
                writer.write(row, 0, self._info)
        return {key: tree_map(lambda array: array[0, 0], value) for key, value in values.items()}

    def _reset(self, seed: int | None) -> None:
        with fault_of("resetting", None):
            observation, info = check_reset(self._env.reset(seed=seed))
            self._look(observation, info)

    def _step(self, action: Any) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, info = check_step(self._env.step(action))
        self._look(observation, info)
        return as_reward(reward), as_flag("terminated", terminated), as_flag("truncated", truncated)

    def _look(self, observation: Any, info: Any) -> None:
        self._writer.write(self._row, 0, observation)
        self._info, self._mask = info, action_mask(observation, info)
        for key in tuple(self._missing):
            value = find(info, key)
            if not absent(value):
                self.info_specs[key] = _numbers(key, value)
                self._missing.remove(key)
        self._reported.update(map(str, info))


def _numbers(key: str, value: Any) -> Tree:
    """The specs of a value of an info.

    Raises:
        ConfigError: It is neither a number nor an array of numbers.
    """
    try:
        arrays = tree_map(np.asarray, value)
    except ValueError as exc:
        raise ConfigError(f"env_info_keys: info[{key!r}] is no array of numbers: {exc}") from exc
    for path, leaf in tree_items({key: arrays}):
        if leaf.dtype.kind not in "biuf":
            raise ConfigError(f"env_info_keys: info{path} is {leaf!r}, which is no number and no array of numbers")
    return tree_map(ArraySpec.of, arrays)
