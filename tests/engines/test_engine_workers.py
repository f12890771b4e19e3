"""How workers are asked for batches, and answer."""

import functools

import pytest

from aiosampler.signals.batch_requests import ROOM
from aiosampler.workers.episodes import pack_episodes
from tests.support.samplers import assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("no_leaks", "same_generators")


async def test_more_episodes_than_there_is_room_for_arrive_in_their_order(monkeypatch):
    arguments = {"env_fn": functools.partial(CountingEnv, longest=1), "batch_T": 256, "batch_B": 8}
    packed = []

    def pack(*args):
        packed.append(pack_episodes(*args))
        return packed[-1]

    monkeypatch.setattr("aiosampler.workers.runner.pack_episodes", pack)
    async with small("cpu", n_workers=1, **arguments) as sampler, small("in-process", **arguments) as other:
        for _ in range(2):
            samples = await sampler.obtain_samples()
            assert len(samples.traj_infos) == 256 * 8
            assert_same(samples, await other.obtain_samples())
    assert min(map(len, packed)) > ROOM  # of all environments, in this process
