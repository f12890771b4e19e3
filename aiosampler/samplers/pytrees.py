"""Registering batches as torch pytrees, so that ``torch.utils._pytree.tree_map`` and its users see their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree  # torch has no public name for it; other libraries register here, too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Keys = tuple[str, ...]


class _Rest:
    """What a batch has besides its tensors. Two are equal if their batches have the same structure of tensors."""

    def __init__(self, paths: _Keys, frame: Any) -> None:
        self._paths, self.frame = paths, frame

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and self._paths == other._paths

    def __hash__(self) -> int:
        return hash(self._paths)

    def __repr__(self) -> str:
        return ", ".join(self._paths)


def register(kind: type, items: Callable[[Any], Iterable[tuple[str, Any]]], map_over: Callable[..., Any]) -> None:
    """Make a class a pytree whose leaves are its tensors.

    Args:
        kind: The class.
        items: Yields path and tensor of each leaf of an instance.
        map_over: ``map_over(function, instance)`` is an instance with `function` applied to each tensor, in that order.
    """

    def flatten(instance: Any) -> tuple[list[Any], _Rest]:
        with_keys, rest = flatten_with_keys(instance)
        return [leaf for _, leaf in with_keys], rest

    def flatten_with_keys(instance: Any) -> tuple[list[tuple[Any, Any]], _Rest]:
        found = list(items(instance))
        frame = map_over(lambda _: ..., instance)
        return [(pytree.GetAttrKey(path), leaf) for path, leaf in found], _Rest(tuple(path for path, _ in found), frame)

    def unflatten(leaves: Iterable[Any], rest: _Rest) -> Any:
        remaining = iter(leaves)
        return map_over(lambda _: next(remaining), rest.frame)

    pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"aiosampler.{kind.__name__}",
        flatten_with_keys_fn=flatten_with_keys,
    )
