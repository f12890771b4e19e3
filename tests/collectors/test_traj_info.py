"""What is told of an episode, from its first step to its last."""

import numpy as np
import pytest

from aiosampler import TrajInfo
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
