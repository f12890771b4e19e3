"""Array specs (shape and dtype), and the specs of the elements of Gymnasium spaces."""

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from aiosampler.errors import ConfigError
from aiosampler.specs.trees import Tree, tree_map


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of one array; always in the byte order of the machine, as tensors are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        if not self.dtype.isnative:
            native = np.dtype(self.dtype.newbyteorder("=").str)  # see `__reduce__`
            object.__setattr__(self, "dtype", native)

    def __reduce__(self) -> tuple[Any, ...]:
        # By its type code: a dtype that was pickled is unpickled as another object than NumPy's own, and the hot path
        # compares dtypes by identity.
        return _array_spec_from_code, (self.shape, self.dtype.str)

    @classmethod
    def of(cls, array: Any) -> "ArraySpec":
        """The spec of an array-like; a Python float counts as float64, an int as int64."""
        array = np.asarray(array)
        return cls(array.shape, array.dtype)

    def batched(self, *leading: int) -> "ArraySpec":
        """The same with `leading` dimensions put before the shape."""
        return ArraySpec((*leading, *self.shape), self.dtype)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(map(int, self.shape)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def _array_spec_from_code(shape: tuple[int, ...], code: str) -> ArraySpec:
    return ArraySpec(shape, np.dtype(code))


def batched(specs: Tree, *leading: int) -> Tree:
    """A tree of specs with `leading` dimensions put before each shape."""
    return tree_map(lambda spec: spec.batched(*leading), specs)


class Spaces(NamedTuple):
    """The spaces of a single environment, as `Agent.initialize` gets them."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]


def space_specs(space: object, what: str = "the space") -> Tree:
    """The tree of `ArraySpec` of the elements of a Gymnasium space.

    Args:
        space: A space.
        what: Name in messages, such as ``observation``; a part of it is named ``observation['image']``.

    Raises:
        ConfigError: The space has elements without a fixed shape (Text, Graph, Sequence, OneOf, custom spaces), or of a
            dtype that no tensor has.
    """
    return _specs(space, what)


@singledispatch
def _specs(space: object, what: str) -> Tree:
    raise ConfigError(
        f"{what}, of the space {space!r}, is no array of a fixed shape; use Box, Discrete, MultiDiscrete, MultiBinary, "
        "or Dict and Tuple of them (wrap the environment to convert or to leave it out)"
    )


@_specs.register(spaces.Box)
@_specs.register(spaces.Discrete)
@_specs.register(spaces.MultiDiscrete)
@_specs.register(spaces.MultiBinary)
def _(space: Any, what: str) -> Tree:
    if space.shape is None or space.dtype is None or space.dtype.kind not in "biuf" or space.dtype.itemsize > 8:
        raise ConfigError(f"{what}, of the space {space!r}, has the dtype {space.dtype}, which no torch tensor has")
    return ArraySpec(tuple(space.shape), np.dtype(space.dtype))


@_specs.register
def _(space: spaces.Dict, what: str) -> Tree:
    if not space.spaces:
        raise ConfigError(f"{what}, of an empty Dict space, has nothing to record")
    return {key: _specs(child, f"{what}[{key!r}]") for key, child in space.spaces.items()}


@_specs.register(spaces.Tuple)
def _(space: Any, what: str) -> Tree:
    if not space.spaces:
        raise ConfigError(f"{what}, of an empty Tuple space, has nothing to record")
    return tuple(_specs(child, f"{what}[{i}]") for i, child in enumerate(space.spaces))
