"""Checks that `env_fn` made an environment with Gymnasium's interface; errors say what it made and what to do."""

import inspect
import reprlib
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from aiosampler.errors import ConfigError
from aiosampler.specs.arrays import Spaces

if TYPE_CHECKING:
    from typing import TypeGuard

METHODS = ("reset", "step", "close")
ASYNC_METHODS = ("reset_async", "step_async", "close_async")
STEP = "step() must return (observation, reward, terminated, truncated, info), as in Gymnasium"
RESET = "reset() must return (observation, info), as in Gymnasium"
LOOP_RUNS_IN_COROUTINES = (
    "environments are awaited in an event loop of their own, which runs in coroutines alone: if this comes from "
    "env_fn, write it as async def"
)
ASYNCIO_SAYS = ("no running event loop", "no current event loop", "attached to a different loop")
ABSENT = object()
_NOT_AWAITED = (
    "vector environments are called, not awaited: without that parameter, env_fn makes single ones that are awaited"
)


def needs_loop(made: Any) -> bool:
    """Whether what `env_fn` returned needs an event loop: a coroutine, an async context, or one with such methods."""
    if inspect.isawaitable(made):
        return True
    if made is None or isinstance(made, type) or is_vector(made):
        return False
    return hasattr(type(made), "__aenter__") or any(
        inspect.iscoroutinefunction(getattr(layer, name, None))
        for layer in (made, getattr(made, "unwrapped", made))
        for name in (*METHODS, *ASYNC_METHODS)
    )


def method_of(env: Any, name: str) -> Any:
    """A method of an environment: the coroutine function ``name`` or ``name_async``, else the plain ``name``."""
    plain, other = getattr(env, name, None), getattr(env, f"{name}_async", None)
    return other if inspect.iscoroutinefunction(other) and not inspect.iscoroutinefunction(plain) else plain


def check_environment(env: Any, *, managed: bool = False) -> "gym.Env[Any, Any]":
    """Check that `env` is a single environment, and return it.

    Args:
        env: What `env_fn` returned, or what awaiting or entering that gave.
        managed: Whether it came from an async context, which closes it.

    Raises:
        TypeError: It is not a single environment with Gymnasium's methods and spaces; the message says what it is.
    """
    if isinstance(env, type):
        raise TypeError(f"env_fn must return a Gymnasium environment, got the class {env!r}: call it")
    if env is None:
        raise TypeError("env_fn must return a Gymnasium environment, got None: does it lack a return?")
    _refuse_several(env)
    methods = {name: method_of(env, name) for name in METHODS}
    missing = [name for name, method in methods.items() if not callable(method)]
    deepmind = _has(env, "observation_spec") and not _has(env, "observation_space")
    if deepmind or "reset" in missing or "step" in missing:
        hint = ", of the API of dm_env: wrap it in shimmy.DmControlCompatibilityV0" if deepmind else ""
        hint = ": decorate env_fn by contextlib.asynccontextmanager" if inspect.isasyncgen(env) else hint
        if not deepmind and ("reset" in missing) != ("step" in missing):
            hint = f", which has no method {'reset' if 'reset' in missing else 'step'}()"
        raise TypeError(f"env_fn must return a Gymnasium environment, got {_short(env)}{hint}")
    if missing and not managed:
        raise TypeError(f"the environment {_short(env)} has no method close(), as those of Gymnasium have")
    _check_wrappers(env)
    _check_seed(methods["reset"])
    spaces_of(env)
    checked: gym.Env[Any, Any] = env
    return checked


def spaces_of(env: Any) -> Spaces:
    """The spaces of an environment.

    Raises:
        TypeError: One is missing, raises, or is not a Gymnasium space.
    """
    return Spaces(_space(env, "observation_space"), _space(env, "action_space"))


def check_reset(result: Any, *, infos: bool = False) -> tuple[Any, Any]:
    """Check what `reset` returned.

    Args:
        result: What it returned.
        infos: Whether it came from a vector environment, which may give a list of infos.

    Raises:
        TypeError: It is not a pair of an observation and an info.
    """
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], (Mapping, list) if infos else Mapping):
        return result
    if inspect.isawaitable(result):
        _dispose(result)
        raise TypeError(_asynchronous("reset"))
    raise TypeError(
        f"{RESET}; it returned {_short(result)}; an environment of the old API needs a wrapper, such as those of shimmy"
    )


def check_step(result: Any, *, infos: bool = False) -> tuple[Any, Any, Any, Any, Any]:
    """Check what `step` returned.

    Args:
        result: What it returned.
        infos: Whether it came from a vector environment, which may give a list of infos.

    Raises:
        TypeError: It is not a tuple of five values that ends with an info.
    """
    if type(result) is tuple and len(result) == 5 and type(result[4]) is dict:  # `isinstance` of a Mapping is slow
        return result
    if isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], (Mapping, list) if infos else Mapping):
        return result
    if inspect.isawaitable(result):
        _dispose(result)
        raise TypeError(_asynchronous("step"))
    raise TypeError(f"{STEP}; it returned {_short(result)}{_step_hint(result)}")


def api_error(exc: BaseException) -> BaseException:
    """A clearer error for what an environment raised since it does not keep to the rules of its interface.

    Such come from unpacking a result of `step` or `reset`, here or in a wrapper, and from asyncio where no loop runs.

    Returns:
        An error that says which rule was broken, with `exc` as its cause; `exc` itself if it is about something else.
    """
    if isinstance(exc, RuntimeError) and any(words in str(exc) for words in ASYNCIO_SAYS):
        error: Exception = RuntimeError(f"{exc}; {LOOP_RUNS_IN_COROUTINES}")
        error.__cause__ = exc
        return error
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    if not frames or not isinstance(exc, ValueError | TypeError) or "unpack" not in str(exc):
        return exc
    rule = {"step": STEP, "_step": STEP, "reset": RESET, "_reset": RESET}.get(frames[-1].f_code.co_name)
    if rule is None or not frames[-1].f_globals.get("__name__", "").startswith(("gymnasium.", "aiosampler.")):
        return exc
    error = TypeError(f"{rule}: {exc}")
    error.__cause__ = exc
    return error


def _step_hint(result: Any) -> str:
    match len(result) if isinstance(result, tuple) else None:
        case None:
            return ""
        case 4:
            return ", 4 items: an environment of the old API needs a wrapper, such as those of shimmy"
        case 5:
            return ", whose info is no dict"
        case n:
            return f", {n} items: put what is beyond the five into info, in a wrapper"


def _refuse_several(env: Any) -> None:
    """Refuse a vector environment, and an environment with several agents."""
    if is_vector(env):
        n = getattr(env, "num_envs", None)
        of = "" if n is None else f" of {n}"
        raise TypeError(
            f"env_fn returned a vector environment{of}, {_short(env)}; give env_fn a parameter num_envs, by which each "
            "worker has it make one of the size of its share, as in lambda num_envs: gymnasium.make_vec(id, num_envs); "
            "or return a single one, the sampler makes as many as batch_B says"
        )
    if _has(env, "possible_agents"):
        raise TypeError(
            f"env_fn returned an environment of several agents, {_short(env)}; wrap it in one of a single agent"
        )


def is_vector(env: Any) -> bool:
    """Whether it looks like a vector environment, of Gymnasium or of another library."""
    stepped_apart = ("single_observation_space",), ("step_async", "step_wait"), ("send", "recv", "async_reset")
    return isinstance(env, gym.vector.VectorEnv) or any(_has(env, *names) for names in stepped_apart)


def check_vector(env: Any, n: int) -> Any:
    """Check what an `env_fn` that takes `num_envs` returned for n.

    Raises:
        TypeError: It is not a vector environment.
        ConfigError: It has another size.
    """
    if inspect.isawaitable(env):
        _dispose(env)
        raise TypeError(f"env_fn has a parameter num_envs, and returned an awaitable, {_short(env)}; {_NOT_AWAITED}")
    if not is_vector(env):
        raise TypeError(
            f"env_fn has a parameter num_envs, so it must return a vector environment, got {_short(env)}; one that "
            "makes single environments must not have that parameter"
        )
    size = getattr(env, "num_envs", None)
    if size != n:
        raise ConfigError(
            f"env_fn was asked for a vector environment of num_envs={n}, and returned one of {size}, {_short(env)}"
        )
    for name in METHODS:
        if not callable(getattr(env, name, None)):
            raise TypeError(f"the vector environment {_short(env)} has no method {name}()")
        if inspect.iscoroutinefunction(getattr(env, name)):
            raise TypeError(f"{name}() of the vector environment {_short(env)} is a coroutine function; {_NOT_AWAITED}")
    # Old ones have the spaces of a single environment under the names without `single_`
    single = _has(env, "single_observation_space") and _has(env, "single_action_space")
    for name in (
        "observation_space",
        "action_space",
    ):
        _space(env, f"single_{name}" if single else name)
    return env


def _has(env: Any, *names: str) -> bool:
    """Whether it has all these attributes; one that raises when it is read counts as there."""
    return all(_is_property(env, name) or hasattr(env, name) for name in names)


def _is_property(env: Any, name: str) -> bool:
    return inspect.getattr_static(env, name, ABSENT) is not ABSENT


def _check_wrappers(env: Any) -> None:
    """Refuse a plain wrapper around an environment with coroutines, which it does not await."""
    innermost = getattr(env, "unwrapped", env)
    while isinstance(env, gym.Wrapper):
        for name in ("reset", "step"):
            method = getattr(type(env), name)
            passes_on = method is getattr(gym.Wrapper, name) or isinstance(env, gym.wrappers.OrderEnforcing)
            wrapped = inspect.iscoroutinefunction(getattr(innermost, name, None))
            if wrapped and not passes_on and not inspect.iscoroutinefunction(method):
                raise TypeError(
                    f"{name}() of {type(innermost).__name__} is a coroutine function (async def), and the wrapper "
                    f"{type(env).__name__} does not await it; write a wrapper whose {name}() is one, too"
                )
        env = env.env


def _check_seed(reset: Any) -> None:
    try:
        signature = inspect.signature(reset)
    except (ValueError, TypeError):
        return  # it has no signature, as it is not written in Python
    try:
        signature.bind(seed=0)
    except TypeError:
        raise TypeError(
            f"reset{signature} does not take seed as a keyword; write reset(self, *, seed=None, options=None), as in "
            "Gymnasium"
        ) from None


def _space(env: Any, name: str) -> "gym.Space[Any]":
    try:
        space = getattr(env, name)
    except Exception as exc:
        if not _is_property(env, name):
            raise TypeError(f"the environment {_short(env)} has no {name}; set it in __init__") from None
        raise TypeError(f"{name} of {_short(env)} raised {type(exc).__name__}: {exc}") from exc
    if _is_space(space):
        return space
    kind = type(space)
    if kind.__module__.startswith("gym."):
        raise TypeError(
            f"{name} is {_short(space)} of {kind.__module__}: the old package gym; use gymnasium.spaces, or wrap the "
            "environment in shimmy.GymV26CompatibilityV0"
        )
    raise TypeError(f"{name} must be a space of gymnasium.spaces, got {_short(space)} of {kind.__module__}")


def _is_space(space: Any) -> "TypeGuard[gym.Space[Any]]":
    return isinstance(space, gym.Space)


def _asynchronous(name: str) -> str:
    return (
        f"{name}() of the environment returned an awaitable, and is no coroutine function: write it as async def "
        f"{name}(...), so that it is awaited"
    )


def _dispose(awaitable: Any) -> None:
    """Close a coroutine, so that it does not warn that it was never awaited."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _short(value: Any) -> str:
    """``repr(value)``, shortened to a line or two; also if `__repr__` raises."""
    return _representation.repr(value)


class _Representation(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_representation = _Representation()
_representation.maxother = _representation.maxstring = 200
