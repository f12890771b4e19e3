"""A batch as plain Python values, which any program can unpickle, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiosampler.specs.trees import Tree

_TEXT_ITEMS = 3  # of a list that are shown


def plain_tree(tree: Tree) -> Tree:
    """The tree with plain dicts and tuples: named tuples become dicts, keys are strings or integers."""
    if isinstance(tree, dict):
        return {_key(key): plain_tree(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", None)
        values = tuple(plain_tree(value) for value in tree)
        return values if names is None else dict(zip(names, values, strict=True))
    return tree


def plain_infos(infos: Iterable[Any]) -> list[dict[str, Any]]:
    """The public attributes of each info, or its items if it is a mapping, that are numbers, strings or None."""
    return [{name: _plain(value) for name, value in _attributes(info) if _is_plain(value)} for info in infos]


def shapes(value: Any) -> str:
    """A text with dtypes and shapes of the tensors of a tree."""
    if isinstance(value, torch.Tensor):
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{where}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shapes(each)}' for key, each in value.items())}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        members = zip(value._fields, value, strict=True)
        return f"{type(value).__name__}({', '.join(f'{name}={shapes(each)}' for name, each in members)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(shapes, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        more = [f"... {len(value)} in all"] if len(value) > _TEXT_ITEMS else []
        return f"[{', '.join([*map(repr, value[:_TEXT_ITEMS]), *more])}]"
    return repr(value)


def _key(key: Any) -> str | int:
    return key if type(key) in (str, int) else str(key)


def _attributes(info: Any) -> Iterable[tuple[str, Any]]:
    members = info if isinstance(info, Mapping) else getattr(info, "__dict__", {})
    return ((str(name), value) for name, value in members.items() if not str(name).startswith("_"))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | np.integer | np.floating | np.bool_)


def _plain(value: Any) -> Any:
    """The value as a plain Python type: instances of subclasses cannot be unpickled without the subclass."""
    kinds = {bool: bool | np.bool_, int: int | np.integer, float: float | np.floating, str: str}
    return next((kind(value) for kind, members in kinds.items() if isinstance(value, members)), None)
