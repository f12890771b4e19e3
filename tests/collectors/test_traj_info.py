"""What is told of an episode, from its first step to its last."""

import numpy as np
import pytest

from aiosampler import TrajInfo
from aiosampler.collectors.batch_statistics import MANY_ENVIRONMENTS, EpisodesTogether, open_episodes
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather, join
from tests.support.worlds import CountingEnv, DetailedTrajInfo

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("T", [2, 5, 11])
def test_trajectory_infos_cover_episodes_over_the_borders_of_batches(T):
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=T, batch_B=3, seed=5, traj_info_kwargs={"discount": 0.9}
    )
    batches = gather(sampler, 60 // T)
    reward, done = join(batches, lambda s: s.env.reward), join(batches, lambda s: s.env.done)
    expected, start = [], [0, 0, 0]
    for t, b in np.argwhere(done):
        rewards = reward[start[b] : t + 1, b].astype(float)
        expected.append(
            (
                len(rewards),
                rewards.sum(),
                np.count_nonzero(rewards),
                (rewards * 0.9 ** np.arange(len(rewards))).sum(),
            )
        )
        start[b] = t + 1
    infos = [info for batch in batches for info in batch.traj_infos]
    assert all(type(info) is TrajInfo for info in infos)
    got = [(info.Length, info.Return, info.NonzeroRewards, info.DiscountedReturn) for info in infos]
    assert np.allclose(got, expected, rtol=1e-6)


def test_a_traj_info_that_overrides_step_sees_each_step():
    sampler = InProcess(
        CountingEnv, agent=LookingAgent(), batch_T=4, batch_B=2, seed=5, traj_info_cls=DetailedTrajInfo,
        traj_info_kwargs={"label": "mine", "discount": 0.5},
    )  # fmt: skip
    infos = [info for batch in gather(sampler, 8) for info in batch.traj_infos]
    assert infos
    for info in infos:
        assert info.label == "mine"
        assert [step[2] for step in info.steps] == list(range(info.Length))
        assert info.last == [info.steps[0][0], info.steps[0][1], info.Length]


def test_a_traj_info_sees_the_random_steps_of_decorrelation_with_their_observations():
    sampler = InProcess(
        CountingEnv, env_kwargs={"longest": 30, "shortest": 30}, agent=LookingAgent(), batch_T=40, batch_B=3, seed=5,
        max_decorrelation_steps=20, traj_info_cls=DetailedTrajInfo,
    )  # fmt: skip
    (samples,) = gather(sampler, 1)
    for info in samples.traj_infos:
        assert [step[2] for step in info.steps] == list(range(30))


@pytest.mark.parametrize("discount", [1.0, 0.99, 0.0])
def test_many_rewards_count_as_they_do_one_by_one(discount):
    """Bit for bit, however they are divided: an episode's statistics depend on nothing but its rewards."""
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=900) * 10.0 ** rng.integers(-9, 9, 900) * (rng.random(900) < 0.8)
    rewards[-2:] = 1e308, 1e308  # no warning where they exceed what a float can hold
    one_by_one, at_once = TrajInfo(discount), TrajInfo(discount)
    for reward in rewards.tolist():
        one_by_one.extend((reward,))
    for part in np.split(rewards, [0, 1, 250, 251]):
        at_once.extend(part)
    assert vars(at_once) == vars(one_by_one)
    assert [type(value) for value in vars(at_once).values()] == [type(value) for value in vars(one_by_one).values()]


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("rewards", ["random", "huge"])
def test_infos_of_many_environments_are_those_that_each_would_get_bit_for_bit(discount, rewards):
    T, n, rng = 7, MANY_ENVIRONMENTS, np.random.default_rng(0)
    apart, together = (open_episodes(lambda: TrajInfo(discount), T, n, together=flag) for flag in (False, True))
    assert type(together) is EpisodesTogether
    found = []
    late, waiting = set(), set()
    for i in range(n):  # as random steps before the first batch do
        for episodes in (apart, together):
            episodes.step_apart(i, None, None, 0.1 * i, False, False, None, {})
    for _ in range(30):
        for episodes in (apart, together):
            episodes.begin()
        waiting = {i for i in waiting if rng.random() < 0.5}
        for i in waiting:
            for episodes in (apart, together):
                episodes.wait(0, i)
        for t in range(T):
            row = rng.choice([1e308, -1e308, 0.0, np.inf] if rewards == "huge" else [0.1, -2.7, 0.0, 1 / 3], size=n)
            ends = [i for i in range(n) if i not in late | waiting and rng.random() < 0.2]
            for i in waiting:
                row[i] = 0
            for episodes in (apart, together):
                episodes.rewards[t][1][:] = row
                ended = [(episodes, episodes.terminate(i, t + 1, None)) for i in ends]
                found += ended
                for i in late:
                    episodes.skip(t, i)
            late = {i for i in late if rng.random() < 0.5}
            for i in ends:
                if rng.random() < 0.3:
                    waiting.add(i)
                    for episodes in (apart, together):
                        episodes.wait(t + 1, i)
                elif rng.random() < 0.5:
                    late.add(i)
        for episodes in (apart, together):
            for i in set(range(n)) - late - waiting:
                episodes.count(i, T)
            episodes.finish(T)
    for i in set(range(n)) - late - waiting:
        found += [(apart, apart.cut(i, None)), (together, together.cut(i, None))]
    ours, theirs = ([repr(info) for owner, info in found if owner is kind] for kind in (together, apart))
    assert len(ours) > 100
    assert ours == theirs
