"""Array specs, and what Gymnasium spaces say about the arrays of their elements."""

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from aiosampler.errors import ConfigError
from aiosampler.specs.trees import Tree, tree_map


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __reduce__(self) -> tuple[Any, ...]:
        # By its code, since a dtype that was pickled as it is comes back as another object than NumPy's own one,
        # and the hot path tells dtypes apart by identity.
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
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

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


@singledispatch
def space_specs(space: object) -> Tree:
    """The tree of `ArraySpec` of the elements of a Gymnasium space.

    Raises:
        ConfigError: The space has elements without a fixed shape (Text, Graph, Sequence, OneOf, custom spaces).
    """
    raise ConfigError(
        f"the space {space!r} has no arrays of a fixed shape; use Box, Discrete, MultiDiscrete, MultiBinary, "
        "or Dict and Tuple of them (wrap the environment to convert)"
    )


@space_specs.register(spaces.Box)
@space_specs.register(spaces.Discrete)
@space_specs.register(spaces.MultiDiscrete)
@space_specs.register(spaces.MultiBinary)
def _(space: Any) -> Tree:
    if space.shape is None or space.dtype is None or space.dtype.kind not in "biuf" or space.dtype.itemsize > 8:
        raise ConfigError(f"the space {space!r} has the dtype {space.dtype}, which no torch tensor has")
    return ArraySpec(tuple(space.shape), np.dtype(space.dtype))


@space_specs.register
def _(space: spaces.Dict) -> Tree:
    if not space.spaces:
        raise ConfigError("an empty Dict space has nothing to record")
    return {key: space_specs(child) for key, child in space.spaces.items()}


@space_specs.register(spaces.Tuple)
def _(space: Any) -> Tree:
    if not space.spaces:
        raise ConfigError("an empty Tuple space has nothing to record")
    return tuple(space_specs(child) for child in space.spaces)
