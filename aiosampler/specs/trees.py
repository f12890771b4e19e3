"""Trees: a leaf, or a dict, tuple or named tuple of trees. None is the empty tree.

Elements of Gymnasium's Dict and Tuple spaces, `agent_info` and recurrent states are trees of arrays or tensors.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Tree: TypeAlias = Any  # a recursive alias would tell a type checker no more, since leaves may be anything


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `function` to each leaf of `tree`, and the leaves at the same place in `rest`; keep the structure."""
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
    """`tree` without its leaves; equal for two trees that `tree_map` takes together."""
    return tree_map(lambda leaf: "*", tree)


def tree_rows(tree: Tree) -> list[Tree]:
    """For a tree of arrays or tensors ``[T, n, ...]``, a list of T trees of views ``[n, ...]``."""
    rows = [list(leaf) for leaf in tree_leaves(tree)]

    def row(t: int) -> Tree:
        remaining = iter(rows)
        return tree_map(lambda _: next(remaining)[t], tree)

    return [row(t) for t in range(len(rows[0]))]
