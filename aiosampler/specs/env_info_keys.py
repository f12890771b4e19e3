"""The keys of an environment's info that are recorded, with the specs of their arrays if the user declared them."""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from aiosampler.errors import ConfigError
from aiosampler.specs.arrays import ArraySpec, space_specs
from aiosampler.specs.trees import Tree

#: For each key, its tree of specs, or None if trying out the environment has to find it.
EnvInfoKeys = dict[str, Tree]


def as_env_info_keys(keys: Any) -> EnvInfoKeys:
    """Check and normalise the user's `env_info_keys`.

    Args:
        keys: An iterable of strings, or a mapping from them to what each holds: a dtype for one number, a
            ``(dtype, shape)`` for an array, a Gymnasium space, or a mapping of these. None in a mapping leaves it to
            be found.

    Raises:
        ConfigError: Something declared is no array of numbers, or a key comes twice.
        TypeError: A key is no string.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise TypeError(
            f"env_info_keys must be a sequence of strings, got {keys!r}; or a dict of them and their dtypes"
        )
    listed = tuple(keys)  # iterated over once, since it may be a generator
    for key in listed:
        if not isinstance(key, str):
            raise TypeError(f"env_info_keys must be strings, got {key!r} in {list(listed)}")
    if len(set(listed)) < len(listed):
        raise ConfigError(f"env_info_keys has a key twice: {list(listed)}")
    if not isinstance(keys, Mapping):
        return dict.fromkeys(listed)
    return {key: None if keys[key] is None else _declared(f"env_info_keys[{key!r}]", keys[key]) for key in listed}


def _declared(name: str, value: Any) -> Tree:
    if isinstance(value, Mapping):
        if not value or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{name} must have strings as keys, and one at least, got {value!r}")
        return {key: _declared(f"{name}[{key!r}]", child) for key, child in value.items()}
    if isinstance(value, gym.Space):
        return space_specs(value)
    try:
        dtype = np.dtype("O" if value is None else value)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{name} must be a dtype such as np.float32, a pair of dtype and shape, or a space, got {value!r}"
        ) from exc
    if dtype.base.kind not in "biuf" or dtype.base.itemsize > 8:
        raise ConfigError(f"{name} must be a dtype of numbers that torch has, got {value!r}")
    return ArraySpec(dtype.shape, dtype.base.newbyteorder("="))
