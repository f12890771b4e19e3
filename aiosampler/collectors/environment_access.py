"""What environments are asked for between two batches: methods and attributes, found through their wrappers.

Arguments and results travel pickled; each environment gets a copy of its own, as it would in a process of its own.
"""

from __future__ import annotations

import inspect
import pickle
from enum import Enum
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.environments import fault_of
from aiosampler.errors import ConfigError, UnknownAttribute, text_of
from aiosampler.pickling import dumps

if TYPE_CHECKING:
    import gymnasium as gym

NOTHING = pickle.dumps(None)


class Ask(Enum):
    """What environments are asked for."""

    CALL = "call"
    GET = "get_attr"
    SET = "set_attr"
    RESET_OPTIONS = "set_reset_options"


def call_environment(env: gym.Env[Any, Any], ask: Ask, name: str, packed: bytes, b: int, *, evaluation: bool) -> bytes:
    """Call a method of an environment, or get or set an attribute; return the result, packed.

    Args:
        env: The environment.
        ask: What to do.
        name: Of the method or attribute; of the outermost wrapper that has it, or the environment.
        packed: Of a method, positional and named arguments; of an attribute to set, its value.
        b: Global index, for messages.
        evaluation: Which kind of environment it is.

    Raises:
        UnknownAttribute: There is none of that name.
        ConfigError: It is a method where an attribute is asked for, or the result cannot be pickled.
        EnvironmentFault: The environment raised.
    """
    who = f"{'evaluation ' if evaluation else ''}environment {b}"
    found = _find(env, name, b, evaluation, who)
    match ask:
        case Ask.CALL:
            with fault_of(f"calling {name}()", b, evaluation):
                args, kwargs = pickle.loads(packed)
                result = found(*args, **kwargs) if callable(found) else found
        case Ask.GET:
            if inspect.isroutine(found):
                raise ConfigError(f"{name} of {who} is a method; use call({name!r})")
            result = found
        case _:
            with fault_of(f"setting {name}", b, evaluation):
                _set(env, name, pickle.loads(packed))
            return NOTHING
    try:
        return dumps(result)
    except Exception as exc:
        what = f"what {name}() of {who} returned" if ask is Ask.CALL else f"{name} of {who}"
        raise ConfigError(f"{what} cannot be pickled, and so cannot be sent: {text_of(exc)}") from exc


def _find(env: Any, name: str, b: int, evaluation: bool, who: str) -> Any:
    """A method or attribute of the outermost wrapper that has it."""
    with fault_of(f"getting {name}", b, evaluation):
        try:
            return env.get_wrapper_attr(name) if hasattr(env, "get_wrapper_attr") else getattr(env, name)
        except AttributeError as exc:
            missing = exc
    raise UnknownAttribute(f"{who} has no attribute {name!r}, nor has any of its wrappers") from missing


def _set(env: Any, name: str, value: Any) -> None:
    if hasattr(env, "set_wrapper_attr"):
        env.set_wrapper_attr(name, value)
    else:
        setattr(env, name, value)
