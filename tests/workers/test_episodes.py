"""How the statistics of episodes travel to the user's process."""

import math

import pytest

from aiosampler import TrajInfo
from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.workers.episodes import NO_EPISODES, EpisodeInfos, pack_episodes, unpack_episodes


class Scored(TrajInfo):
    """A subclass with an attribute of its own."""

    score = 0


def episodes(kind, first, *, cut=False):
    """Three episodes of environment `first` and the next, with rewards that are no round numbers."""
    found = []
    for t, b in ((0, first + 1), (4, first), (4, first + 1)):
        info = kind(0.9)
        info.extend([0.1 * (t + 1), 0.0, -math.inf if b == 1 else float(b)])
        found.append(FinishedEpisode(t, b, info))
    if cut:
        found[-1].info.cut = True
        found[-1] = found[-1]._replace(cut=True)
    return found


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", [TrajInfo, Scored])
def test_infos_arrive_as_they_were_in_the_order_of_the_batch(kind, cut):
    parts = episodes(kind, 2), episodes(kind, 0, cut=cut)
    packed = [pack_episodes(part, kind) for part in parts]
    expected = sorted((*parts[0], *parts[1]), key=lambda episode: episode[:2])
    arrived = unpack_episodes([packed[0], NO_EPISODES, packed[1]], kind)
    assert [(each.t, each.b, each.cut) for each in arrived] == [(each.t, each.b, each.cut) for each in expected]
    for infos in ([each.info for each in arrived], EpisodeInfos(packed, kind).infos()):
        assert all(type(info) is kind for info in infos)
        assert [list(vars(info).items()) for info in infos] == [list(vars(each.info).items()) for each in expected]
        assert [type(value) for info in infos for value in vars(info).values()] == [
            type(value) for each in expected for value in vars(each.info).values()
        ]


def test_what_terminate_returns_in_place_of_an_info_arrives():
    packed = pack_episodes([FinishedEpisode(3, 0, "a word")], Scored)
    assert EpisodeInfos([packed], Scored).infos() == ["a word"]
    assert pack_episodes([], TrajInfo) == NO_EPISODES
