"""An evaluation over several actors: what each is to do, and what they have found, in the order of one sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.collectors.rules import split_evenly
from aiosampler.samplers.evaluation import Evaluation
from aiosampler.workers.episodes import unpack_episodes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiosampler.collectors.traj_info import TrajInfo


def divided(episodes: int | None, each: int, n_actors: int) -> dict[int, int | None]:
    """Divide the episodes of an evaluation over the actors that have any, so that each environment has its quota.

    Each actor divides its own again, evenly over its environments; that gives the same quotas as if one sampler had
    divided all of them over all environments.

    Args:
        episodes: How many there are; None for no limit.
        each: How many evaluation environments each actor has.
        n_actors: How many actors there are.
    """
    if episodes is None:
        return dict.fromkeys(range(n_actors))
    quotas = split_evenly(episodes, each * n_actors)
    shares = [sum(quotas[k * each : (k + 1) * each]) for k in range(n_actors)]
    return {k: share for k, share in enumerate(shares) if share}


def merged(answers: Mapping[int, list[bytes]], each: int, kind: type[TrajInfo]) -> Evaluation:
    """Merge the episodes of the actors that have answered, ordered by step, then environment.

    Args:
        answers: Packed episodes, by actor.
        each: How many evaluation environments each actor has.
        kind: Class of the trajectory infos.
    """
    episodes = [
        episode._replace(b=k * each + episode.b)
        for k, packed in answers.items()
        for episode in unpack_episodes(packed, kind)
    ]
    return Evaluation(sorted(episodes, key=lambda episode: (episode.t, episode.b)))
