"""Trajectory infos on their way to the user's process, where their class is known.

They are pickled where they arise, and unpickled where they are used; the processes between pass the bytes on.
"""

import pickle
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any

import cloudpickle

from aiosampler.collectors.collector import FinishedEpisode
from aiosampler.collectors.traj_info import TrajInfo

#: What stands for a batch or an evaluation that was aborted.
NO_EPISODES = pickle.dumps([])


def pack_episodes(episodes: list[FinishedEpisode], kind: type[TrajInfo]) -> bytes:
    """Pickle infos of class `kind` by their attributes alone, and whatever else `terminate` returned as it is."""
    facts = [(t, b, vars(info), None) if type(info) is kind else (t, b, None, info) for t, b, info in episodes]
    try:
        return pickle.dumps(facts)
    except Exception:  # objects of classes that are defined in the user's main module travel by value
        packed: bytes = cloudpickle.dumps(facts)
        return packed


def unpack_episodes(packed: Iterable[bytes], kind: type[TrajInfo]) -> list[Any]:
    """The infos in the order in which their episodes ended: by step, then environment."""
    facts = sorted(chain.from_iterable(map(pickle.loads, packed)), key=itemgetter(0, 1))
    return [other if attributes is None else _restore(kind, attributes) for _, _, attributes, other in facts]


def _restore(kind: type[TrajInfo], attributes: dict[str, Any]) -> TrajInfo:
    info = kind.__new__(kind)
    info.__dict__ = attributes
    return info
