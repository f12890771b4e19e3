"""Pickling trajectory infos in the process that has them, and unpickling them in the user's process.

The processes in between pass on the bytes, so they need not import the class.
"""

import pickle
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.pickling import dumps

#: The pickled episodes of a batch or evaluation that was aborted.
NO_EPISODES = pickle.dumps([])


def pack_episodes(episodes: list[FinishedEpisode], kind: type[TrajInfo]) -> bytes:
    """Pickle infos of class `kind` as dicts of their attributes, and other results of `terminate` as they are."""
    facts = [
        (t, b, cut, vars(info), None) if type(info) is kind else (t, b, cut, None, info) for t, b, info, cut in episodes
    ]
    try:
        return pickle.dumps(facts)
    except Exception:  # objects whose class is defined in the user's main module
        packed: bytes = dumps(facts)
        return packed


class Episode(NamedTuple):
    """An unpickled episode: its info, or whatever `terminate` returned, whether it was cut, and where it ended."""

    info: Any
    cut: bool
    t: int
    b: int


def unpack_infos(packed: Iterable[bytes], kind: type[TrajInfo]) -> list[TrajInfo]:
    """The infos of the episodes in the order in which these ended: by step, then environment."""
    return _infos(_facts(packed), kind)


def unpack_episodes(packed: Iterable[bytes], kind: type[TrajInfo]) -> list[Episode]:
    """The episodes in the same order."""
    facts = _facts(packed)
    return [Episode(info, cut, t, b) for info, (t, b, cut, _, _) in zip(_infos(facts, kind), facts, strict=True)]


_Facts = tuple[int, int, bool, dict[str, Any] | None, Any]


def _facts(packed: Iterable[bytes]) -> list[_Facts]:
    """What was packed of each episode, in order."""
    facts = list(chain.from_iterable(map(pickle.loads, packed)))
    facts.sort(key=itemgetter(0, 1))
    return facts


def _infos(facts: list[_Facts], kind: type[TrajInfo]) -> list[Any]:
    new, infos = kind.__new__, []
    for _, _, _, attributes, other in facts:
        info = other
        if attributes is not None:
            info = new(kind)
            info.__dict__ = attributes
        infos.append(info)
    return infos
