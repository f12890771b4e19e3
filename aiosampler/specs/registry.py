"""Sending Gymnasium's registry to other processes, so that `gymnasium.make` in an `env_fn` finds the same ids there.

A process of a sampler never runs the user's script, so it would lack what the script has registered, itself or by
importing packages. Entry points that are defined in the script are sent by value.
"""

import dataclasses
import importlib
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import (
    EnvSpec,
    WrapperSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)

from aiosampler.errors import ConfigError

SCRIPT = "__main__:"


def find_spec(env_id: str) -> EnvSpec:
    """The spec of an id as `gymnasium.make` takes it: ``"module:id"`` imports the module; no version means the newest.

    Raises:
        ConfigError: It is not registered, or its module cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        namespace, bare, version = parse_env_id(name)
        if version is None and name not in gym.registry:
            version = find_highest_version(namespace, bare)
            name = get_env_id(namespace, bare, version)
        return gym.spec(name)
    except Exception as exc:
        said = str(exc).rstrip(".")
        raise ConfigError(
            f"env_fn={env_id!r} is no registered environment: {said}{'' if said.endswith('?') else '.'} Import the "
            "package that registers it, or write 'package:id'"
        ) from exc


def by_value(spec: EnvSpec) -> EnvSpec:
    """The spec; if its entry point is a name in the user's script, with that object in place of the name.

    Raises:
        ConfigError: The script has no such object.
    """
    entry_point = spec.entry_point
    if not isinstance(entry_point, str) or not entry_point.startswith(SCRIPT):
        return spec
    try:
        found: Any = load_env_creator(entry_point)
        return dataclasses.replace(spec, entry_point=found)
    except Exception as exc:
        raise ConfigError(f"{spec.id!r} is registered as {entry_point!r}, which is not there: {exc}") from exc


def modules_of(spec: EnvSpec) -> set[str]:
    """Names of the modules that `gymnasium.make` imports for this spec."""
    places = [spec.entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)]
    return {place.partition(":")[0] for place in places if isinstance(place, str) and not place.startswith(SCRIPT)}


def pack_registry() -> bytes:
    """Pickle the registry of this process."""
    plain = {name: spec for name, spec in gym.registry.items() if _is_plain(spec)}
    others = {name: _portable(spec) for name, spec in gym.registry.items() if name not in plain}
    return pickle.dumps((plain, others))


def unpack_registry(packed: bytes) -> None:
    """Add a registry that `pack_registry` has pickled to that of this process.

    A spec that cannot be unpickled is registered all the same; making it raises an error that says why.
    """
    plain, others = pickle.loads(packed)
    gym.registry.update(plain)
    for name, portable in others.items():
        gym.registry[name] = _arrived(name, portable)
    # Gymnasium warns where an id is registered twice, as when `env_fn` imports a package that the script had imported
    warnings.filterwarnings("ignore", r".*Overriding environment .* already in registry")


def _is_plain(spec: EnvSpec) -> bool:
    """Whether it consists of strings and numbers only, so that unpickling it imports nothing and cannot fail."""
    return (
        isinstance(spec.entry_point, str)
        and not spec.entry_point.startswith(SCRIPT)
        and _is_data({field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)})
    )


def _is_data(value: Any) -> bool:
    if type(value) in (dict, list, tuple, set):
        return all(map(_is_data, [*value, *value.values()] if isinstance(value, Mapping) else value))
    if type(value) is WrapperSpec:
        return _is_data(value.kwargs)
    return type(value) in (str, int, float, bool, bytes, type(None))


def _portable(spec: EnvSpec) -> bytes | str:
    """The pickle of a spec, or a message why it cannot be pickled."""
    try:
        packed: bytes = cloudpickle.dumps(by_value(spec))
        return packed
    except Exception as exc:
        return (
            f"{spec.id!r} was registered in the user's process, but cannot be pickled for the sampler's processes: "
            f"{exc}. Register it by 'module:class', or inside env_fn"
        )


def _arrived(name: str, portable: bytes | str) -> EnvSpec:
    why = portable
    if isinstance(portable, bytes):
        try:
            spec: EnvSpec = pickle.loads(portable)
            return spec
        except Exception as exc:
            why = (
                f"{name!r} was registered in the user's process, but what it is made of cannot be imported in a "
                f"process of the sampler: {type(exc).__name__}: {exc}. Register it inside env_fn"
            )
    return EnvSpec(name, entry_point=_Refusal(str(why)), disable_env_checker=True, order_enforce=False)


class _Refusal:
    """An entry point that raises, in place of one that could not be sent."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __call__(self, **kwargs: Any) -> Any:
        raise ConfigError(self._why)
