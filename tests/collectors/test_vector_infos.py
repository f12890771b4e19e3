"""Infos of vector environments are taken apart into those that single environments would give."""

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from aiosampler.collectors.vector_infos import ABSENT, array_of, final_of, info_of

INFOS = [
    {"lives": 3, "episode": {"r": 1.5, "l": 4}, "mask": np.array([1, 0], np.int8)},
    {"lives": 2},
    {"episode": {"r": 2.5}, "name": "x", "mask": np.array([0, 1], np.int8)},
]


def vector_infos():
    vector = VectorEnv()
    vector.num_envs, infos = 3, {}
    for i, info in enumerate(INFOS):
        infos = vector._add_info(infos, info, i)
    return infos


def plain(info):
    return {key: plain(value) if isinstance(value, dict) else np.asarray(value).tolist() for key, value in info.items()}


def test_each_environment_has_what_it_reported_and_no_more():
    infos = vector_infos()
    assert [plain(info_of(infos, i)) for i in range(3)] == [plain(info) for info in INFOS]


def test_lists_and_arrays_without_masks_are_taken_too():
    assert [info_of(INFOS, i) for i in range(3)] == INFOS
    infos = {"env_id": np.arange(3), "players": {"env_id": torch.arange(3) * 2}, "version": "1", "all": np.array(7)}
    assert info_of(infos, 2) == {"env_id": 2, "players": {"env_id": 4}, "version": "1", "all": 7}


def test_what_belongs_to_an_episode_that_ended_is_told_apart():
    vector = VectorEnv()
    vector.num_envs = 2
    infos = vector._add_info({}, {"final_obs": np.array([7.0]), "final_info": {"lives": 0}}, 1)
    infos = vector._add_info(infos, {"lives": 3}, 1)
    assert info_of(infos, 1) == {"lives": 3}
    assert info_of(infos, 0) == {}
    observation, info = final_of(infos, 1)
    assert (observation.tolist(), info) == ([7.0], {"lives": 0})
    assert final_of(infos, 0) == (ABSENT, ABSENT)
    old = [{}, {"terminal_observation": 5, "lives": 1}]
    assert final_of(old, 1) == (5, ABSENT)
    assert final_of(old, 0) == (ABSENT, ABSENT)


def test_arrays_of_all_environments_are_found_with_those_that_have_them():
    infos = vector_infos()
    values, mask = array_of(infos, "lives", ("lives",))
    assert (values.tolist(), mask.tolist()) == ([3, 2, 0], [True, True, False])
    values, mask = array_of(infos, "episode.r", ("episode", "r"))
    assert (values[mask].tolist(), mask.tolist()) == ([1.5, 2.5], [True, False, True])
    assert array_of(infos, "nothing", ("nothing",)) == (None, None)
    assert array_of(infos, "name", ("name",)) == (ABSENT, None)
    assert array_of(infos, "episode", ("episode",)) == (ABSENT, None)
    assert array_of(INFOS, "lives", ("lives",)) == (ABSENT, None)
    values, mask = array_of({"episode.r": np.ones(3)}, "episode.r", ("episode", "r"))
    assert (values.tolist(), mask) == ([1, 1, 1], None)
