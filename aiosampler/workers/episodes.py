"""Packing trajectory infos in the process that has them, and unpacking them in the user's process.

The processes in between pass on the bytes, so they need not import the class. Infos of the class `TrajInfo` itself are
packed as records of numbers, which are unpacked in half the time; those of subclasses, with whatever attributes they
have, are pickled.
"""

import pickle
import struct
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple

from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.collectors.traj_info import TrajInfo, restored
from aiosampler.pickling import dumps

_RECORDS = b"\0"  # the first byte of records; a pickle begins with another one
_RECORD = struct.Struct("<qq?qdqddd")  # step, environment, cut, and the attributes of a TrajInfo in their order

#: The packed episodes of a batch or evaluation that was aborted.
NO_EPISODES = _RECORDS


def pack_episodes(episodes: list[FinishedEpisode], kind: type[TrajInfo]) -> bytes:
    """Pack the infos of class `kind` by their attributes, and other results of `terminate` as they are."""
    if kind is TrajInfo:
        pack = _RECORD.pack
        try:
            records = [
                pack(
                    t, b, cut, info.Length, info.Return, info.NonzeroRewards, info.DiscountedReturn,
                    info._discount, info._factor,  # noqa: SLF001 - our own, and a third faster than by `vars`
                )
                for t, b, info, cut in episodes
            ]  # fmt: skip
            return _RECORDS + b"".join(records)
        except (struct.error, OverflowError):  # a number that is too large
            pass
    facts = [
        (t, b, cut, vars(info), None) if type(info) is kind else (t, b, cut, None, info) for t, b, info, cut in episodes
    ]
    try:
        return pickle.dumps(facts)
    except Exception:  # objects whose class is defined in the user's main module
        packed: bytes = dumps(facts)
        return packed


class EpisodeInfos:
    """The trajectory infos of the episodes that ended in a batch, in their order: by step, then environment.

    Records stay packed until the infos are asked for; everything else is unpickled at once, as that may fail.

    Args:
        packed: The parts, from each process that stepped.
        kind: Class of the infos.

    Attributes:
        count: How many there are.
    """

    def __init__(self, packed: Sequence[bytes], kind: type[TrajInfo]) -> None:
        self._packed = packed
        self._made: list[Any] | None = None
        if all(map(bytes.startswith, packed, repeat(_RECORDS))):
            self.count = (sum(map(len, packed)) - len(packed)) // _RECORD.size
        else:
            self._made = [info for _, _, _, info in _facts(packed, kind)]
            self.count = len(self._made)

    @classmethod
    def made(cls, infos: Sequence[Any]) -> "EpisodeInfos":
        """Those of infos that are there."""
        new = cls((), TrajInfo)
        new._made, new.count = list(infos), len(infos)
        return new

    def infos(self) -> list[Any]:
        """The infos, or whatever `terminate` returned in their place; a new list."""
        return restored(_records(self._packed)) if self._made is None else list(self._made)


class Episode(NamedTuple):
    """An unpickled episode: its info, or whatever `terminate` returned, whether it was cut, and where it ended."""

    info: Any
    cut: bool
    t: int
    b: int


def unpack_episodes(packed: Iterable[bytes], kind: type[TrajInfo]) -> list[Episode]:
    """The episodes in the order in which they ended: by step, then environment."""
    return [Episode(info, cut, t, b) for t, b, cut, info in _facts(packed, kind)]


def _records(packed: Iterable[bytes]) -> list[Any]:
    """The records of all parts, in order."""
    records = list(chain.from_iterable(_RECORD.iter_unpack(memoryview(part)[1:]) for part in packed))
    records.sort()  # each differs from all others by its step or environment, which are the first two
    return records


def _facts(packed: Iterable[bytes], kind: type[TrajInfo]) -> list[tuple[int, int, bool, Any]]:
    """Step, environment, whether it was cut, and info of each episode, in order."""
    facts = []
    for part in packed:
        if part.startswith(_RECORDS):
            records = _records([part])
            facts += [(*record[:3], info) for record, info in zip(records, restored(records), strict=True)]
            continue
        for t, b, cut, attributes, info in pickle.loads(part):
            if attributes is not None:
                info = kind.__new__(kind)
                info.__dict__ = attributes
            facts.append((t, b, cut, info))
    facts.sort(key=itemgetter(0, 1))
    return facts
