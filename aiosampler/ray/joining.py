"""One batch from those of several actors, as one sampler with all their environments would have recorded it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.ray.ray_statistics import RaySampleStats
from aiosampler.samplers.episode_ends import EpisodeEnds
from aiosampler.samplers.samples import AgentSamples, EnvSamples, Samples, tensors_of
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Fields ``[B, ...]``; all others are ``[T, B, ...]``.
_WITHOUT_TIME = {"bootstrap_value", "initial_state", "last_observation"}


def joined(batches: Sequence[Samples]) -> Samples:
    """Join batches of the same number side by side, in the order of their environments: a copy.

    Its `policy_version` is the oldest of theirs. Its infos are ordered as those of one batch, if each episode that
    ended was reported.
    """
    samples: Samples = _join(batches)
    return dataclasses.replace(
        samples,
        traj_infos=_joined_infos(batches),
        itr=batches[0].itr,
        policy_version=min(samples.policy_version for samples in batches),
        stats=_joined_stats([samples.stats for samples in batches]),  # type: ignore[misc] # the driver has made them
    )


def _join(parts: Sequence[Any]) -> Any:
    match parts[0]:
        case Samples() | AgentSamples() | EnvSamples():
            fields = {
                name: _join_field(name, [getattr(part, name) for part in parts]) for name, _ in tensors_of(parts[0])
            }
            return dataclasses.replace(parts[0], **fields)
        case EpisodeEnds():
            return _join_ends(parts)
    return _concatenate(parts, axis=1)


def _join_field(name: str, values: Sequence[Any]) -> Any:
    return _concatenate(values, axis=0) if name in _WITHOUT_TIME else _join(values)


def _concatenate(trees: Sequence[Any], axis: int) -> Any:
    # By NumPy, since torch cannot join tensors of all dtypes that spaces have
    return tree_map(
        lambda *leaves: torch.from_numpy(np.concatenate([leaf.numpy() for leaf in leaves], axis)), trees[0], *trees[1:]
    )


def _join_ends(parts: Sequence[EpisodeEnds]) -> EpisodeEnds:
    """Join what episodes ended with, ordered by step, then environment."""
    B = parts[0].shape[1]
    t = np.concatenate([part.t.numpy() for part in parts])
    b = np.concatenate([part.b.numpy() + k * B for k, part in enumerate(parts)])
    order = np.lexsort((b, t))
    rest = _concatenate([part.as_dict()[part.shown_as] for part in parts], axis=0)
    rest = tree_map(lambda leaf: torch.from_numpy(leaf.numpy()[order]), rest)
    gathered = torch.from_numpy(t[order]), torch.from_numpy(b[order]), rest
    return type(parts[0])({}, gathered=gathered, shape=(parts[0].shape[0], B * len(parts)))


def _joined_infos(batches: Sequence[Samples]) -> list[Any]:
    infos = [info for samples in batches for info in samples.traj_infos]
    places = [
        (t, k, b) for k, samples in enumerate(batches) for t, b in torch.nonzero(samples.env.done).tolist()
    ]  # of each batch in the order of its infos
    if len(places) != len(infos):
        return infos
    return [info for _, info in sorted(zip(places, infos, strict=True), key=lambda pair: pair[0])]


def _joined_stats(stats: Sequence[RaySampleStats]) -> RaySampleStats:
    slowest = max(stats, key=lambda each: each.seconds)
    return RaySampleStats(
        env_steps=sum(each.env_steps for each in stats),
        seconds=slowest.seconds,
        timeline=slowest.timeline,
        lost_steps=sum(each.lost_steps for each in stats),
        lost_episodes=sum(each.lost_episodes for each in stats),
        restarts=sum(each.restarts for each in stats),
        index=stats[0].index if len({each.index for each in stats}) == 1 else -1,
        actors=tuple(actor for each in stats for actor in each.actors),
        nodes=tuple(node for each in stats for node in each.nodes),
    )
