"""Checks of single arguments; what they return has a plain Python type."""

import math
import numbers
import operator
from typing import Any

import numpy as np

from aiosampler.errors import ConfigError


def as_integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a Python integer; NumPy integers are accepted.

    Raises:
        ConfigError: It is no integer, or below `minimum`.
    """
    try:
        integer = operator.index(value)
    except TypeError:
        integer = None
    if integer is None or isinstance(value, bool) or integer < minimum:
        raise ConfigError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return integer


def as_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value`, an integer or a float from `low` to `high`, as a float; NumPy numbers are accepted.

    Raises:
        ConfigError: It is out of that range.
        TypeError: It is no number.
    """
    allowed = f"{name} must be a number " + (f"of at least {low}" if high == math.inf else f"between {low} and {high}")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{allowed}, got {value!r}")
    if not low <= float(value) <= high:
        raise ConfigError(f"{allowed}, got {value!r}")
    return float(value)


def as_bool(name: str, value: Any) -> bool:
    """`value`, which must be True or False; NumPy's are accepted.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_seconds(name: str, value: Any, none: str = "no limit") -> float | None:
    """`value`, which must be a finite number above 0, or None; NumPy numbers are accepted.

    Args:
        name: Its name.
        value: The argument.
        none: What None stands for.

    Raises:
        ConfigError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, or None for {none}, got {value!r}")
    return float(value)
