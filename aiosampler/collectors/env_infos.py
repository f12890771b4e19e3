"""Recording the `env_info_keys` of environments' infos, with a flag for each whether it was reported."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aiosampler.collectors.recording import ALL, LeafWriter, Mismatch, Writer, make_writer
from aiosampler.collectors.vector_infos import ABSENT, array_of, info_of
from aiosampler.specs.trees import Tree


class _Key(NamedTuple):
    name: str
    path: tuple[str, ...]  # used if no key has that name: "episode.r" is info["episode"]["r"]
    writer: Writer


class EnvInfoWriter:
    """Writes the recorded keys of an environment's info.

    Args:
        specs: For each key, its tree of `ArraySpec`.
    """

    def __init__(self, specs: dict[str, Tree]) -> None:
        self._keys = [
            _Key(name, tuple(name.split(".")), make_writer(spec, f"info[{name!r}]")) for name, spec in specs.items()
        ]

    def rows(self, values: dict[str, Tree], present: dict[str, Any]) -> list[Sequence[tuple[_Key, Any, Any]]]:
        """Views of the T rows of arrays ``[T, n, ...]`` and flags ``[T, n]``, made once so that steps make none."""
        columns: list[Any] = [
            zip(writer.rows(values[name]), [memoryview(flags) for flags in present[name]], strict=True)
            for name, _, writer in self._keys
        ]
        return [
            [(key, value, flags) for key, (value, flags) in zip(self._keys, row, strict=True)]
            for row in zip(*columns, strict=True)
        ]

    def write(self, row: Sequence[tuple[_Key, Any, Any]], i: int, info: Any) -> None:
        """Write the recorded keys that are in `info` into element i of a row, and set their flags.

        Raises:
            Mismatch: `info` is not a dict, or a value does not fit its spec.
        """
        for key, target, present in row:
            try:
                value = info[key.name]
            except (KeyError, TypeError, IndexError):
                value = find(info, key.name, key.path)
            if value is ABSENT or value is None:
                continue
            key.writer.write(target, i, value)
            present[i] = True

    def write_all(
        self, row: Sequence[tuple[_Key, Any, Any]], infos: Any, n: int, which: np.ndarray[Any, Any] | None
    ) -> None:
        """Write the recorded keys that are in the infos of a vector environment.

        Args:
            row: A row of `rows`.
            infos: The infos of n environments.
            n: Number of environments.
            which: Indices of the environments to write; None for all.

        Raises:
            Mismatch: As for `write`.
        """
        for entry in row:
            key, target, present = entry
            values, mask = array_of(infos, key.name, key.path)
            if values is None:
                continue
            if values is ABSENT or not isinstance(key.writer, LeafWriter):
                for i in range(n) if which is None else which.tolist():
                    self.write((entry,), i, info_of(infos, i))
                continue
            there: Any = which
            if mask is not None:
                there = np.flatnonzero(mask) if which is None else which[mask[which]]
                if not len(there):
                    continue
            key.writer.write_all(target, values, ALL if there is None else there)
            np.asarray(present)[ALL if there is None else there] = True


def find(info: Any, name: str, path: tuple[str, ...] = ()) -> Any:
    """The value of an info under a name, or at a path of names; None stands for a value that is absent.

    Raises:
        Mismatch: It is no dict.
    """
    if not isinstance(info, Mapping):
        raise Mismatch(f"info must be a dict, got {info!r}")
    if name in info:
        return ABSENT if info[name] is None else info[name]
    found: Any = info
    for part in path or name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return ABSENT
        found = found[part]
    return ABSENT if found is None else found


def absent(value: Any) -> bool:
    """Whether `find` found nothing."""
    return value is ABSENT
