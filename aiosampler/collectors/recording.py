"""Writing what environments return into rows of a slot, and refusing what does not fit."""

from typing import Any

import numpy as np

from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import Tree


class Mismatch(Exception):
    """A value does not fit its spec."""


def as_flag(name: str, value: Any) -> bool:
    """`value` as a boolean; 0 and 1, and arrays or tensors with a single boolean are accepted.

    Raises:
        Mismatch: It is not a boolean; the message has its `name`.
    """
    if type(value) is bool or type(value) is np.bool_:
        return bool(value)
    array = _as_array(value)
    if array is not None and array.size == 1 and array.dtype.kind in "biu" and array.item() in (0, 1):
        return bool(array.item())
    raise Mismatch(f"{name} must be True or False, got {_shown(value)}")


def as_flags(name: str, value: Any, shape: tuple[int]) -> np.ndarray[Any, Any]:
    """Flags of n environments as an array of booleans in the shape ``[n]``.

    Raises:
        Mismatch: They are not booleans, or not n.
    """
    array = value if type(value) is np.ndarray else np.asarray(value)
    if array.shape == shape:
        if array.dtype.char == "?":
            return array
        if array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
            return array.astype(np.bool_)
    raise Mismatch(f"{name} must be an array of {shape[0]} booleans, got {_shown(value)}")


def as_rewards(value: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Rewards of n environments as an array of numbers in the shape ``[n]``.

    Raises:
        Mismatch: They are not numbers, or not n.
    """
    array = value if type(value) is np.ndarray else np.asarray(value)
    if array.shape == shape and array.dtype.kind in "fiub":
        return array
    raise Mismatch(f"the reward must be an array of {shape[0]} numbers, got {_shown(value)}")


def as_reward(value: Any) -> float:
    """`value` as a float; arrays, tensors and lists with a single number are accepted.

    Raises:
        Mismatch: It does not hold exactly one number.
    """
    array = _as_array(value)
    if array is None or array.dtype.kind not in "biuf":
        raise Mismatch(f"the reward must be a number, got {_shown(value)}")
    if array.size != 1:
        raise Mismatch(
            f"the reward must be a number, got {array.size} of them in the shape {list(array.shape)}; return their "
            "weighted sum, and the parts in the info, where env_info_keys records them"
        )
    return float(array.item())


def _as_array(value: Any) -> np.ndarray[Any, Any] | None:
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)  # tensors with a gradient
    except Exception:
        return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({type(value).__name__})"


#: The index for assigning to a whole row of `exact_rows`.
ALL = slice(None)


class _ExactRow:
    """An array of more than one dimension to which only arrays of its own shape and dtype can be assigned."""

    __slots__ = ("_array", "_dtype", "_shape")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array, self._shape, self._dtype = array, array.shape, array.dtype

    def __setitem__(self, whole: slice, value: Any) -> None:
        if value.shape != self._shape or value.dtype != self._dtype:
            raise ValueError
        self._array[...] = value


def exact_rows(array: np.ndarray[Any, Any]) -> list[Any]:
    """Views of the T rows of an array ``[T, n, ...]`` for ``row[ALL] = value``, made once.

    The assignment copies a value that has exactly the row's shape and dtype, and raises for any other. Memoryviews
    check and copy in half the time that NumPy takes for the copy alone.
    """
    return [memoryview(row) if row.ndim == 1 else _ExactRow(row) for row in array]


def flat_rows(array: np.ndarray[Any, Any]) -> list[memoryview]:
    """Flat views of the T rows of ``[T, n, k]``: ``row[places[i]] = value`` takes vectors of k elements only."""
    return [memoryview(row.reshape(-1)) for row in array]


def flat_places(array: np.ndarray[Any, Any]) -> list[slice]:
    """The slices of the n vectors of a row in `flat_rows`."""
    _, n, k = array.shape
    return [slice(i * k, (i + 1) * k) for i in range(n)]


class LeafWriter:
    """Writes single arrays.

    Args:
        spec: The spec of one environment's array.
        what: Name in messages, such as ``observation["image"]``.
    """

    def __init__(self, spec: ArraySpec, what: str) -> None:
        self.spec, self.shape, self.dtype, self.what = spec, spec.shape, spec.dtype, what

    def rows(self, array: Any) -> list[Any]:
        """Views of the T rows of an array ``[T, n, ...]``, made once so that steps make none."""
        return list(array)

    def write(self, row: Any, i: int, value: Any) -> None:
        """Write `value` into ``row[i]``.

        Raises:
            Mismatch: Its shape differs, or its dtype is of another kind, as a float for an integer.
        """
        if type(value) is not np.ndarray:
            try:
                value = np.asarray(value.detach() if hasattr(value, "detach") else value)  # tensors with a gradient
            except ValueError as exc:
                raise Mismatch(f"{self.what} is no array: {exc}") from exc
        if value.shape != self.shape:
            raise Mismatch(f"{self.what} does not fit: expected {self.spec}, got {_what_it_is(value)}")
        row[i] = value if value.dtype == self.dtype else self._cast(value)

    def write_all(self, row: Any, value: Any, which: Any = ALL) -> None:
        """Write `value` ``[n, ...]``, an array for each environment, into the row; with `which`, only those.

        Raises:
            Mismatch: As for `write`, or its first axis is not n.
        """
        if type(value) is not np.ndarray:
            value = np.asarray(value.detach() if hasattr(value, "detach") else value)
        if value.shape != row.shape:
            expected, got = ArraySpec(row.shape, self.dtype), _what_it_is(value)
            raise Mismatch(f"{self.what} does not fit: expected {expected}, one for each environment, got {got}")
        if value.dtype != self.dtype:
            value = self._cast(value)
        row[which] = value if which is ALL else value[which]

    def _cast(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`value` in the dtype of the spec; refuse numbers that overflow it, where NumPy would wrap around."""
        integers = value.dtype.kind in "iu" and self.dtype.kind in "iu"  # Python integers become int64 arrays
        if not integers and not np.can_cast(value.dtype, self.dtype, "same_kind"):
            raise Mismatch(f"{self.what} does not fit: expected {self.spec}, got {_what_it_is(value)}")
        with np.errstate(over="ignore"):
            cast: np.ndarray[Any, Any] = value.astype(self.dtype)
        if not (cast == value if integers else np.isfinite(cast)).all():
            lost = cast != value if integers else np.isinf(cast) & np.isfinite(value)
            if not lost.any():
                return cast  # they were infinite or NaN before the cast
            got = f"{_what_it_is(value)} with {value[lost].flat[0]}"
            raise Mismatch(f"{self.what} does not fit: expected {self.spec}, got {got}")
        return cast


def _what_it_is(array: np.ndarray[Any, Any]) -> str:
    """Text for messages: dtype and shape of an array, or the value itself if it is not numeric."""
    return (
        str(ArraySpec.of(array)) if array.dtype.kind in "biufc" else _shown(array.item() if array.size == 1 else array)
    )


class DictWriter:
    """Writes dicts, by a writer for each key."""

    def __init__(self, children: "dict[str, Writer]", what: str) -> None:
        self.children, self.what = children, what

    def rows(self, array: Any) -> list[Any]:
        """Rows of each child, by row."""
        columns = {key: child.rows(array[key]) for key, child in self.children.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def write(self, row: Any, i: int, value: Any) -> None:
        """Write each key of `value`."""
        try:
            for key, child in self.children.items():
                child.write(row[key], i, value[key])
        except (KeyError, TypeError, IndexError) as exc:
            raise Mismatch(f"{self.what} does not fit: expected the keys {list(self.children)}, got {value!r}") from exc

    def write_all(self, row: Any, value: Any, which: Any = ALL) -> None:
        """Write each key of `value`, which has arrays of n environments."""
        try:
            for key, child in self.children.items():
                child.write_all(row[key], value[key], which)
        except (KeyError, TypeError, IndexError) as exc:
            raise Mismatch(f"{self.what} does not fit: expected the keys {list(self.children)}, got {value!r}") from exc


class TupleWriter:
    """Writes tuples, by a writer for each item."""

    def __init__(self, children: "list[Writer]", what: str) -> None:
        self.children, self.what = children, what

    def rows(self, array: Any) -> list[Any]:
        """Rows of each child, by row."""
        return list(zip(*(child.rows(part) for child, part in zip(self.children, array, strict=True)), strict=True))

    def write(self, row: Any, i: int, value: Any) -> None:
        """Write each item of `value`."""
        if not isinstance(value, tuple | list) or len(value) != len(self.children):
            raise Mismatch(f"{self.what} does not fit: expected {len(self.children)} items, got {value!r}")
        for child, part, item in zip(self.children, row, value, strict=True):
            child.write(part, i, item)

    def write_all(self, row: Any, value: Any, which: Any = ALL) -> None:
        """Write each item of `value`, which has arrays of n environments."""
        if not isinstance(value, tuple | list) or len(value) != len(self.children):
            raise Mismatch(f"{self.what} does not fit: expected {len(self.children)} items, got {value!r}")
        for child, part, item in zip(self.children, row, value, strict=True):
            child.write_all(part, item, which)


Writer = LeafWriter | DictWriter | TupleWriter


def make_writer(specs: Tree, what: str) -> Writer:
    """A writer for a tree of specs."""
    match specs:
        case dict():
            children = {key: make_writer(spec, f"{what}[{key!r}]") for key, spec in specs.items()}
            return DictWriter(children, what)
        case tuple():
            return TupleWriter([make_writer(spec, f"{what}[{i}]") for i, spec in enumerate(specs)], what)
        case _:
            return LeafWriter(specs, what)
