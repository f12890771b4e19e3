"""The loop that is written out for one plain environment: it records what the general one does."""

import numpy as np
import pytest
import torch

from aiosampler import TrajInfo
from aiosampler.collectors.collector import Collector
from aiosampler.collectors.environments import EnvironmentFault
from aiosampler.collectors.single_collector import SingleCollector
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.worlds import CountingEnv


class ConvertingEnv(CountingEnv):
    """Returns one item of each third step in another way."""

    def __init__(self, item=0, convert=None, **arguments):
        super().__init__(**arguments)
        self._item, self._convert, self._taken = item, convert, 0

    def step(self, action):
        self._taken += 1
        result = list(super().step(action))
        if self._convert is not None and self._taken % 3 == 0:
            result[self._item] = self._convert(result[self._item])
        return tuple(result)


class CountedSteps(TrajInfo):
    """Looks at each step."""

    def step(self, observation, action, reward, terminated, truncated, agent_info, env_info):
        super().step(observation, action, reward, terminated, truncated, agent_info, env_info)
        self.Seen = getattr(self, "Seen", 0) + 1


RETURNED = {
    "as expected": {}, "an observation as a list": {"item": 0, "convert": np.ndarray.tolist},
    "an observation of another dtype": {"item": 0, "convert": lambda o: o.astype(np.uint64)},
    "a reward in an array": {"item": 1, "convert": lambda r: np.array([r])},
    "a flag of NumPy": {"item": 2, "convert": np.bool_}, "a flag as a number": {"item": 3, "convert": int},
}  # fmt: skip


def batches_of(n, env_kwargs, **arguments):
    sampler = InProcess(
        ConvertingEnv, env_kwargs={"longest": 5, **env_kwargs}, agent=LookingAgent(), batch_T=4, batch_B=n, seed=5,
        **arguments,
    )  # fmt: skip
    assert isinstance(sampler.runner._collector, SingleCollector) == (n == 1)
    return gather(sampler, 6)


def assert_same(alone, beside_another):
    for batch, expected in zip(alone, beside_another, strict=True):
        for name in ("observation", "reward", "prev_reward", "terminated", "truncated", "done", "first"):
            assert torch.equal(getattr(batch.env, name)[:, 0], getattr(expected.env, name)[:, 0]), name
        for name in ("action", "prev_action"):
            assert torch.equal(getattr(batch.agent, name)[:, 0], getattr(expected.agent, name)[:, 0]), name
        assert torch.equal(batch.valid[:, 0], expected.valid[:, 0])
        ended = [info for info, at in zip(expected.traj_infos, expected.env.done.nonzero(), strict=True) if at[1] == 0]
        assert [vars(info) for info in batch.traj_infos] == [vars(info) for info in ended]


@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED)
def test_one_environment_is_recorded_as_one_of_several(returned):
    assert_same(batches_of(1, returned), batches_of(2, returned))


@pytest.mark.parametrize("arguments", [{"mid_batch_reset": False}, {"traj_info_cls": CountedSteps}], ids=str)
def test_so_it_is_under_other_rules(arguments):
    assert_same(batches_of(1, {}, **arguments), batches_of(2, {}, **arguments))


def test_the_common_step_does_not_go_the_general_way(monkeypatch):
    def general(*args):
        raise AssertionError("the general way")

    monkeypatch.setattr(Collector, "_step", general)
    assert all(batch.valid.all() for batch in batches_of(1, {}))


@pytest.mark.parametrize(
    ("item", "value", "words"),
    [
        (0, np.zeros(7), "observation does not fit"),
        (1, "much", "the reward must be a number, got 'much'"),
        (2, "no", "terminated must be True or False, got 'no'"),
    ],
)
def test_what_does_not_fit_is_refused_with_step_and_environment(item, value, words):
    sampler = InProcess(
        ConvertingEnv, env_kwargs={"item": item, "convert": lambda _: value}, agent=LookingAgent(), batch_T=4,
        batch_B=1, seed=5,
    )  # fmt: skip
    with pytest.raises(EnvironmentFault, match="taking step 2 of the batch") as caught:
        sampler.collect()
    assert words in str(caught.value.__cause__)
    sampler.close()
