"""Evaluations over several actors: each environment has the quota that it would have in one sampler."""

import pytest

from aiosampler.collectors.rules import split_evenly
from aiosampler.collectors.traj_info import TrajInfo

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.ray.split_evaluation import divided, merged
from aiosampler.workers.episodes import pack_episodes


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("episodes", range(1, 14))
def test_each_environment_has_its_quota(episodes, each):
    shares = divided(episodes, each, 4)
    quotas = [quota for k in range(4) for quota in split_evenly(shares.get(k, 0), each)]
    assert quotas == split_evenly(episodes, 4 * each)
    assert 0 not in shares.values()  # who has none is not asked


def test_without_a_number_of_episodes_all_evaluate_without_a_limit():
    assert divided(None, 2, 3) == {0: None, 1: None, 2: None}


def test_episodes_are_in_the_order_of_one_sampler():
    def found(*places):
        infos = []
        for t, b in places:
            info = TrajInfo()
            info.Length = t
            infos.append(FinishedEpisode(t, b, info, cut=t == 9))
        return [pack_episodes(infos, TrajInfo)]

    evaluation = merged({1: found((3, 0), (9, 1)), 0: found((3, 1), (5, 0))}, 2, TrajInfo)
    assert [info.Length for info in evaluation] == [3, 3, 5, 9]
    assert [info.Length for info in evaluation.cut] == [9]
