"""Calls of methods and attributes of environments between two batches, found through their wrappers.

Arguments and results are pickled, so that each environment gets its own copy, even if several are in one process.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from aiosampler.collectors.environments import fault_of
from aiosampler.errors import ConfigError, UnknownAttribute, text_of
from aiosampler.memory.progress import environment_name
from aiosampler.pickling import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING = pickle.dumps(None)


class Ask(Enum):
    """What a call does with an environment: call a method, or get or set an attribute."""

    CALL = "call"
    GET = "get_attr"
    SET = "set_attr"
    RESET_OPTIONS = "set_reset_options"


def call_environment(env: gym.Env[Any, Any], ask: Ask, name: str, packed: bytes, b: int, *, evaluation: bool) -> bytes:
    """Call a method of an environment, or get or set an attribute; return the pickled result.

    Args:
        env: The environment.
        ask: What to do.
        name: Name of the method or attribute; the outermost wrapper that has it is used.
        packed: Pickled positional and named arguments of a method, or the value of an attribute to set.
        b: Global index, for messages.
        evaluation: Whether it is an evaluation environment.

    Raises:
        UnknownAttribute: There is no method or attribute of that name.
        ConfigError: It is a method where an attribute is asked for, or the result cannot be pickled.
        EnvironmentFault: The environment raised.
    """
    if ask is Ask.CALL:
        return pack_result(invoke(env, name, packed, b, evaluation=evaluation), ask, name, b, evaluation=evaluation)
    who = environment_name(b, evaluation)
    found = _find(env, name, b, evaluation, who)
    if ask is Ask.SET:
        with fault_of(f"setting {name}", b, evaluation):
            _set(env, name, pickle.loads(packed))
        return NOTHING
    if inspect.isroutine(found):
        raise ConfigError(f"{name} of {who} is a method; use call({name!r})")
    return pack_result(found, ask, name, b, evaluation=evaluation)


def invoke(env: Any, name: str, packed: bytes, b: int, *, evaluation: bool) -> Any:
    """Call a method of an environment and return its result; an attribute that is not callable is returned itself.

    For arguments and errors see `call_environment`.
    """
    found = _find(env, name, b, evaluation, environment_name(b, evaluation))
    with fault_of(f"calling {name}()", b, evaluation):
        args, kwargs = pickle.loads(packed)
        return found(*args, **kwargs) if callable(found) else found


def pack_result(result: Any, ask: Ask, name: str, b: int, *, evaluation: bool) -> bytes:
    """Pickle the result of a call.

    Raises:
        ConfigError: It cannot be pickled.
    """
    try:
        return dumps(result)
    except Exception as exc:
        who = environment_name(b, evaluation)
        what = f"what {name}() of {who} returned" if ask is Ask.CALL else f"{name} of {who}"
        raise ConfigError(f"{what} cannot be pickled, and so cannot be sent: {text_of(exc)}") from exc


def call_vector(
    vector: Any, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]], first: int, n: int, *, evaluation: bool
) -> Iterator[tuple[int, bytes | Exception]]:
    """Call environments of a vector environment.

    A vector wrapper around it that has the method or attribute is called, for all. Otherwise, if it holds single
    environments (``envs``), each of them is called. If not, the vector environment is called as a whole: through its
    ``call``, ``get_attr`` and ``set_attr``, as `gymnasium.vector.AsyncVectorEnv` has them, or by its own method or
    attribute; if the result is a sequence of n, it has one for each environment.

    Args:
        vector: The vector environment.
        ask: What to do.
        name: Name of the method or attribute.
        packed: Pairs of an environment, counted from 0, and its pickled arguments.
        first: Global index of environment 0.
        n: How many environments it has.
        evaluation: Whether they are evaluation environments.

    Yields:
        Pairs of an environment and its pickled result, or what was raised.
    """
    wrapper = _wrapper_with(vector, name)
    singles = getattr(getattr(vector, "unwrapped", vector), "envs", None) if wrapper is None else None
    if isinstance(singles, Sequence) and len(singles) == n and all(hasattr(env, "reset") for env in singles):
        for i, arguments in packed:
            try:
                yield i, call_environment(singles[i], ask, name, arguments, first + i, evaluation=evaluation)
            except Exception as exc:
                yield i, exc
        return
    try:
        results: Sequence[Any] = _call_whole(wrapper or vector, ask, name, dict(packed), (first, n), evaluation)
        answers: list[bytes | Exception] = [dumps(results[i]) for i, _ in packed]
    except Exception as exc:
        answers = [exc] * len(packed)
    yield from zip((i for i, _ in packed), answers, strict=True)


def _wrapper_with(vector: Any, name: str) -> Any:
    """The outermost wrapper of a vector environment that has a method or attribute of its own of this name; or None."""
    while isinstance(vector, gym.vector.VectorWrapper):
        kinds = [kind for kind in type(vector).__mro__ if kind not in gym.vector.VectorWrapper.__mro__]
        if name in vars(vector) or any(name in vars(kind) for kind in kinds):
            return vector
        vector = vector.env
    return None


def _call_whole(
    vector: Any, ask: Ask, name: str, packed: dict[int, bytes], whose: tuple[int, int], evaluation: bool
) -> Sequence[Any]:
    """Call a vector environment, or a wrapper of it, as a whole; return one result for each of its environments."""
    first, n = whose
    who = environment_name(first, evaluation, n - 1)
    owner = vector if _wrapper_with(vector, name) is vector else getattr(vector, "unwrapped", vector)
    doing = {Ask.CALL: f"calling {name}()", Ask.GET: f"getting {name}"}.get(ask, f"setting {name}")
    same = len(packed) == n and len(set(packed.values())) == 1
    with fault_of(doing, first, evaluation, n - 1):
        if ask is Ask.SET and all(hasattr(owner, method) for method in ("get_attr", "set_attr")):
            values = [] if len(packed) == n else list(owner.get_attr(name))
            owner.set_attr(name, [pickle.loads(packed[i]) if i in packed else values[i] for i in range(n)])
            return [None] * n
        if ask is Ask.GET and hasattr(owner, "get_attr"):
            return list(owner.get_attr(name))
        if ask is Ask.CALL and same and hasattr(owner, "call"):
            args, kwargs = pickle.loads(packed[0])
            return list(owner.call(name, *args, **kwargs))
    if ask is not Ask.GET and not same:
        raise ConfigError(
            f"{ask.value}({name!r}) reaches {who} together, which are one {type(owner).__name__}: give no env_indices, "
            "and one value for all"
        )
    found = _find(vector if hasattr(vector, name) else owner, name, first, evaluation, who)
    with fault_of(doing, first, evaluation, n - 1):
        if ask is Ask.SET:
            _set(vector if name in vars(vector) else owner, name, pickle.loads(packed[0]))
            return [None] * n
        if ask is Ask.CALL and callable(found):
            args, kwargs = pickle.loads(packed[0])
            found = found(*args, **kwargs)
    if ask is Ask.GET and inspect.isroutine(found):
        raise ConfigError(f"{name} of {who} is a method; use call({name!r})")
    each = isinstance(found, list | tuple | np.ndarray) and np.ndim(found) > 0 and len(found) == n
    return found if each else [found] * n


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
