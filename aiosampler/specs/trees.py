"""Trees: a leaf, or a dict, tuple or named tuple of trees. None is the empty tree.

They are what Gymnasium's Dict and Tuple spaces, `agent_info` and recurrent state have in common.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Tree: TypeAlias = Any  # a recursive alias says no more to a type checker, since leaves are array-likes of all kinds


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `function` to the leaves of `tree`, with those at the same place in `rest`; keep the structure."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: tree_map(function, value, *(other[key] for other in rest)) for key, value in tree.items()}
    if isinstance(tree, tuple):
        mapped = (tree_map(function, *values) for values in zip(tree, *rest, strict=True))
        return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)
    return function(tree, *rest)


def tree_items(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(path, leaf)`` in order, such as ``('["image"]', leaf)``; a single leaf has the path ``''``."""
    if tree is None:
        return
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from tree_items(value, f"{path}[{key!r}]")
    elif isinstance(tree, tuple):
        names = getattr(tree, "_fields", None)
        for index, value in enumerate(tree):
            yield from tree_items(value, f"{path}.{names[index]}" if names else f"{path}[{index}]")
    else:
        yield path, tree


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves of `tree` in order."""
    return [leaf for _, leaf in tree_items(tree)]


def tree_structure(tree: Tree) -> Tree:
    """`tree` with its leaves left out: equal for trees that can be mapped together."""
    return tree_map(lambda leaf: "*", tree)


def tree_rows(tree: Tree) -> list[Tree]:
    """The rows ``[n, ...]`` of a tree of arrays or tensors ``[T, n, ...]``, each a tree of views made once."""
    rows = [list(leaf) for leaf in tree_leaves(tree)]

    def row(t: int) -> Tree:
        remaining = iter(rows)
        return tree_map(lambda _: next(remaining)[t], tree)

    return [row(t) for t in range(len(rows[0]))]
