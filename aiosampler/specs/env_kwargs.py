"""The arguments of `env_fn`: the same for all environments, or different ones for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from aiosampler.errors import ConfigError, text_of

Arguments: TypeAlias = Mapping[str, Any]
EnvKwargs: TypeAlias = Arguments | Sequence[Arguments] | Callable[[int], Arguments]


def settle_env_kwargs(
    name: str, given: Any, n: int, counted_by: str, first: int = 0
) -> Arguments | list[Arguments] | None:
    """Check the arguments of `n` environments; if a function was given, call it for each index.

    Args:
        name: Name of the sampler's argument.
        given: A mapping, a sequence of n mappings, a function that makes one from an index, or None.
        n: How many environments there are.
        counted_by: The sampler's argument that gives n, for messages.
        first: Index of the first of them, among those of all samplers.

    Raises:
        ConfigError: The sequence has another length, or the function raised.
        TypeError: One is no mapping with strings as keys.
    """
    if given is None or _is_mapping(given):
        return given  # type: ignore[no-any-return] # it was checked above
    if isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict with strings as keys, got {given!r}")
    if callable(given):
        each = [_ask(name, given, b) for b in range(first, first + n)]
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        each = list(given)
    else:
        raise TypeError(
            f"{name} must be a dict with strings as keys, a sequence of one for each environment, or a function that "
            f"makes one from an environment's index, got {given!r}"
        )
    for b, arguments in enumerate(each):
        if not _is_mapping(arguments):
            raise TypeError(
                f"{name} must be a dict with strings as keys for each environment, got {arguments!r} for "
                f"environment {b}"
            )
    if len(each) != n:
        raise ConfigError(f"{name} must have one dict for each of {counted_by}={n} environments, got {len(each)}")
    return each


def kwargs_of(settled: Arguments | Sequence[Arguments] | None, index: int) -> dict[str, Any]:
    """The arguments of one environment."""
    if settled is None:
        return {}
    return dict(settled if isinstance(settled, Mapping) else settled[index])


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _ask(name: str, function: Callable[[int], Any], b: int) -> Any:
    try:
        return function(b)
    except Exception as exc:
        raise ConfigError(f"{name}({b}) raised {type(exc).__name__}: {text_of(exc)}") from exc
