"""Episodes become a dataset, which Minari loads back."""

import numpy as np
import pytest
import torch

from aiosampler import EpisodeAssembler, RandomAgent, SamplerError
from tests.support.in_process import InProcess
from tests.support.worlds import CountingEnv, NestedEnv

minari = pytest.importorskip("minari", reason="the extra minari is not installed")
pytest.importorskip("h5py", reason="the extra minari is not installed")
interop = pytest.importorskip("aiosampler.interop.minari")


def episodes(env_fn, n=6, **arguments):
    sampler, assembler, found = InProcess(env_fn, batch_T=8, batch_B=2, seed=1, **arguments), EpisodeAssembler(), []
    while len(found) < n:
        found += assembler.add(sampler.collect())
    spaces = sampler.probed.spaces
    sampler.close()
    return found, spaces


@pytest.mark.parametrize(
    ("env_fn", "env_info_keys"),
    [("CartPole-v1", ()), (CountingEnv, ("doubled",)), (NestedEnv, ())],
    ids=["cartpole", "infos", "nested"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # that authors and links are missing
def test_a_dataset_of_episodes_is_loaded_back(env_fn, env_info_keys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    written, spaces = episodes(env_fn, agent=RandomAgent(), env_info_keys=env_info_keys)
    minari.create_dataset_from_buffers(
        "aiosampler/test-v0",
        [interop.to_episode_buffer(episode) for episode in written],
        observation_space=spaces.observation,
        action_space=spaces.action,
        data_format="hdf5",
    )
    loaded = list(minari.load_dataset("aiosampler/test-v0").iterate_episodes())
    assert len(loaded) == len(written)
    for episode, read in zip(written, loaded, strict=True):
        L = len(episode)
        same(episode.observation, tree(read.observations, slice(L)))
        same(episode.next_observation(), tree(read.observations, slice(1, None)))
        same(episode.action, read.actions)
        same(episode.reward, read.rewards.astype(np.float32))
        assert read.terminations.tolist() == [False] * (L - 1) + [episode.terminated]
        assert read.truncations.tolist() == [False] * (L - 1) + [episode.truncated]
        for key in env_info_keys:
            same(episode.prev_env_info[key], read.infos[key][:L])
            same(episode.env_info[key], read.infos[key][1:])


def tree(value, rows):
    if isinstance(value, dict):
        return {key: tree(each, rows) for key, each in value.items()}
    return tuple(tree(each, rows) for each in value) if isinstance(value, tuple) else value[rows]


def same(ours, theirs):
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, tuple):
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
    else:
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_an_episode_that_was_cut_is_truncated_or_refused():
    import dataclasses

    (episode, *_), _ = episodes("CartPole-v1", n=1, agent=RandomAgent())
    cut = dataclasses.replace(episode, terminated=False)
    buffer = interop.to_episode_buffer(cut)
    assert (buffer.terminations[-1], buffer.truncations[-1]) == (False, True)
    assert torch.equal(torch.from_numpy(buffer.observations[-1]), episode.final_observation)
    with pytest.raises(SamplerError, match="was lost with its worker"):
        interop.to_episode_buffer(dataclasses.replace(cut, final_observation=None))
