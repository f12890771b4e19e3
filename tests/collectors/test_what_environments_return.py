"""Environments as other people write them: buffers that are used again, flags and rewards of all types."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from aiosampler import ConfigError, RandomAgent, TrajInfo, WorkerError
from aiosampler.collectors.recording import Mismatch, as_flag, as_reward
from aiosampler.specs.trees import tree_leaves, tree_map
from tests.support.agents import LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.samplers import EVERYWHERE, small
from tests.support.worlds import CountingEnv, NestedEnv

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES = {
    "vector": BOX,
    "image": spaces.Box(-np.inf, np.inf, (2, 2, 1), np.float32),
    "dict": spaces.Dict(a=BOX, b=spaces.Box(-np.inf, np.inf, (), np.float32)),
    "tuple": spaces.Tuple((BOX, spaces.Dict(b=BOX))),
}
#: What all environments of a process return.
BUFFERS = {
    kind: {
        "observation": tree_map(np.asarray, space.sample()),
        "reward": np.zeros(()),
        "terminated": np.zeros((), bool),
        "truncated": np.zeros(1, bool),
        "info": {"me": np.zeros(()), "steps": np.zeros(2)},
    }
    for kind, space in SPACES.items()
}


class SharingEnv(gym.Env):
    """Returns the same objects as all others of its process; each value tells whose it is, and when."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind="vector"):
        self.observation_space, self.buffers, self.me = SPACES[kind], BUFFERS[kind], None

    def _fill(self):
        for leaf in tree_leaves(self.buffers["observation"]):
            leaf.fill(100 * self.me + self.t)
        self.buffers["reward"].fill(self.me + self.t / 8)
        self.buffers["terminated"].fill(self.t == 3 and self.me % 2)
        self.buffers["truncated"].fill(self.t == 3)
        self.buffers["info"]["me"].fill(self.me)
        self.buffers["info"]["steps"].fill(self.t)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.me is None:
            self.me = int(self.np_random.integers(1, 1000))
        self.t = 0
        self._fill()
        return self.buffers["observation"], self.buffers["info"]

    def step(self, action):
        self.t += 1
        self._fill()
        return tuple(self.buffers[name] for name in ("observation", "reward", "terminated", "truncated", "info"))


class KeepingInfo(TrajInfo):
    """Notes what it is shown, and keeps what it is shown last as it is."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def step(self, observation, action, reward, terminated, truncated, agent_info, env_info):
        super().step(observation, action, reward, terminated, truncated, agent_info, env_info)
        places = {float(leaf.flat[0]) for leaf in map(np.asarray, tree_leaves(observation))}
        self.seen.append((places, reward, terminated, truncated, float(env_info["me"]), env_info["steps"].tolist()))

    def terminate(self, observation):
        self.last = observation
        return self


@pytest.mark.each_value
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("shape", SPACES)
async def test_environments_that_return_the_same_objects_are_recorded_apart(kind, shape):
    env_kwargs = {"kind": shape}
    async with small(
        kind, SharingEnv, env_kwargs=env_kwargs, agent=RandomAgent(), traj_info_cls=KeepingInfo, env_info_keys=("me",),
        max_decorrelation_steps=3, eval_n_envs=4, eval_max_steps=40,
    ) as sampler:  # fmt: skip
        for _ in range(3):
            samples = await sampler.obtain_samples()
            me = samples.env.env_info["me"][0]
            assert len(set(me.tolist())) == 4
            assert (samples.env.env_info["me"] == me).all()
            assert (samples.env.reward.floor() == me).all()
            t = (samples.env.reward - me) * 8  # of the observation that follows
            for leaf, after in zip(
                tree_leaves(samples.env.observation), tree_leaves(samples.env.next_observation()), strict=True
            ):
                rest = (1,) * (leaf.ndim - 2)
                where = (100 * me).view(1, 4, *rest)
                assert (leaf == where + (t - 1).view(5, 4, *rest)).all()
                assert (after == where + t.view(5, 4, *rest)).all()
            assert torch.equal(samples.env.truncated, t == 3)
            assert torch.equal(samples.env.terminated, (t == 3) & (me % 2 == 1))
            ends = [(me[b].item(), b) for _, b in samples.env.truncated.nonzero().tolist()]
            assert len(samples.traj_infos) == len(ends) >= 4
            for info, (number, _) in zip(samples.traj_infos, ends, strict=True):
                check(info, number)
        infos = [info for info in await sampler.evaluate_agent() if not info.cut]
        assert len(infos) >= 8
        for info in infos:
            check(info, info.seen[0][4])


def check(info, me):
    """An info tells of one environment, from the first to the last of its three steps."""
    assert info.seen == [
        ({100 * me + t - 1}, me + t / 8, bool(t == 3 and me % 2), t == 3, me, [t, t]) for t in (1, 2, 3)
    ]
    assert {float(value) for leaf in tree_leaves(info.last) for value in np.asarray(leaf).flat} == {100 * me + 3}


ONE = CountingEnv()


def same_instance():
    return ONE


def same_but_wrapped():
    return gym.wrappers.TimeLimit(ONE, 5)


def same_for_evaluation(evaluation):
    return same_but_wrapped() if evaluation else ONE


@pytest.mark.each_value
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("env_fn", [same_instance, same_but_wrapped])
async def test_one_instance_for_several_columns_is_refused(kind, env_fn):
    with pytest.raises(ConfigError, match=r"same CountingEnv for environment \d and for environment \d; it must build"):
        async with small(kind, env_fn):
            pass


@pytest.mark.parametrize("kind", ["serial", "gpu"])
async def test_one_instance_for_training_and_evaluation_is_refused(kind):
    workers = {} if kind == "serial" else {"n_workers": 1}
    arguments = {"batch_B": 1, "eval_n_envs": 1, "eval_max_steps": 5, "env_kwargs": {"evaluation": False}, **workers}
    with pytest.raises(ConfigError, match="for environment 0 and for evaluation environment 0; it must build"):
        async with small(kind, same_for_evaluation, eval_env_kwargs={"evaluation": True}, **arguments):
            pass


TRUE = [True, np.True_, 1, np.int8(1), np.array(True), np.array([True]), np.array([[1]]), torch.tensor(True), [True]]
FALSE = [False, np.False_, 0, np.uint8(0), np.array(False), np.array([False]), torch.tensor([False]), torch.tensor(0)]
NO_FLAGS = ["False", "", None, {}, {"a": True}, float("nan"), 0.5, 2, -1, np.zeros(2, bool), [], Exception(), 1.0]


def test_what_is_plainly_a_boolean_is_taken_for_one():
    for value in TRUE:
        assert as_flag("terminated", value) is True
    for value in FALSE:
        assert as_flag("terminated", value) is False


@pytest.mark.parametrize("value", NO_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_what_is_not_plainly_a_boolean_is_refused(name, value):
    with pytest.raises(Mismatch, match=f"^{name} must be True or False, got "):
        as_flag(name, value)


class ReturningEnv(CountingEnv):
    """Returns what it is told to in place of something, from its second step on: the first is the example's."""

    def __init__(self, what, value, wrong_at=2):
        super().__init__(longest=5, shortest=5)
        self._what, self._value, self._wrong_at = what, value, wrong_at

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        result = {"reward": reward, "terminated": terminated, "truncated": truncated}
        if self._step >= self._wrong_at:
            value = self._value(result[self._what]) if callable(self._value) else self._value
            result[self._what] = value
        return observation, *result.values(), info


@pytest.mark.each_value
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        ("terminated", "False", "terminated must be True or False, got 'False'"),
        ("truncated", float("nan"), "truncated must be True or False, got nan"),
        (
            "reward",
            np.zeros(2),
            r"the reward must be a number, got 2 of them in the shape \[2\]; return",
        ),
        ("reward", None, "the reward must be a number, got None"),
    ],
)
async def test_what_does_not_fit_is_refused_with_environment_field_and_value(kind, what, value, words):
    with pytest.raises(WorkerError, match=rf"^environment \d failed in .* while taking step 1 of the batch: {words}"):
        async with small(kind, ReturningEnv, env_kwargs={"what": what, "value": value}) as sampler:
            await sampler.obtain_samples()


@pytest.mark.parametrize("what", ["terminated", "truncated", "reward"])
def test_what_does_not_fit_is_refused_in_the_random_steps_of_decorrelation_too(what):
    with pytest.raises(Exception, match="taking a random step") as caught:
        InProcess(
            ReturningEnv, env_kwargs={"what": what, "value": "no"}, agent=LookingAgent(), batch_T=2, batch_B=8, seed=5,
            max_decorrelation_steps=9,
        )  # fmt: skip
    assert isinstance(caught.value.__cause__, Mismatch)


def same_batches(changed, **arguments):
    plain = gather(InProcess(ReturningEnv, env_kwargs={"what": "reward", "value": float}, **arguments), 4)
    other = gather(InProcess(ReturningEnv, env_kwargs=changed, **arguments), 4)
    for batch, expected in zip(other, plain, strict=True):
        for name in ("observation", "reward", "terminated", "truncated", "done"):
            assert torch.equal(getattr(batch.env, name), getattr(expected.env, name)), name
        assert [vars(info) for info in batch.traj_infos] == [vars(info) for info in expected.traj_infos]


CONVERSIONS = {
    "numpy": np.bool_, "int": int, "0-d": np.asarray, "one": lambda flag: np.array([flag]), "torch": torch.tensor,
}  # fmt: skip


@pytest.mark.parametrize("what", ["terminated", "truncated"])
@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_flags_of_every_type_are_recorded(what, convert):
    arguments = {"agent": LookingAgent(), "batch_T": 4, "batch_B": 2, "seed": 5, "max_decorrelation_steps": 3}
    same_batches({"what": what, "value": convert}, **arguments)


REWARDS = {
    "float32": np.float32, "0-d": np.asarray, "one": lambda r: np.array([r]), "ones": lambda r: np.array([[[r]]]),
    "list": lambda r: [r], "torch": lambda r: torch.tensor(r, dtype=torch.float64),
    "torch of one": lambda r: torch.tensor([[r]], dtype=torch.float64),
    "with gradient": lambda r: torch.tensor([r], dtype=torch.float64, requires_grad=True),
}  # fmt: skip


@pytest.mark.parametrize("convert", REWARDS.values(), ids=REWARDS)
def test_whatever_holds_one_number_is_taken_as_a_reward(convert):
    arguments = {"agent": LookingAgent(), "batch_T": 4, "batch_B": 2, "seed": 5, "max_decorrelation_steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        same_batches({"what": "reward", "value": convert}, **arguments)


@pytest.mark.parametrize("value", [True, np.True_, 1, np.int64(1), np.bool_(1), torch.tensor(True), np.array([True])])
def test_booleans_and_integers_are_rewards(value):
    batch = gather(
        InProcess(
            ReturningEnv, env_kwargs={"what": "reward", "value": value}, agent=LookingAgent(), batch_T=4, batch_B=2,
            seed=5,
        ),
        1,
    )[0]  # fmt: skip
    assert (batch.env.reward[1:] == 1).all()


def test_nan_is_a_number():
    assert np.isnan(as_reward(np.array([np.nan])))


@pytest.mark.parametrize("value", [None, "1.0", b"1", {"a": 1.0}, [], [1.0, 2.0], [[1.0], [2.0, 3.0]], 1j, Exception()])
def test_what_holds_no_number_or_several_is_no_reward(value):
    with pytest.raises(Mismatch, match="the reward must be a number, got "):
        as_reward(value)


class TypeEnv(CountingEnv):
    """Takes only what its action space's ``sample()`` gives."""

    def step(self, action):
        assert type(action) is type(self.action_space.sample())
        assert action.dtype == np.int64
        assert (action.item(), action.shape) == (int(action), ())
        return super().step(action)


class NestedTypeEnv(NestedEnv):
    def step(self, action):
        sample = self.action_space.sample()
        assert {key: type(value) for key, value in action.items()} == {key: type(sample[key]) for key in sample}
        assert {key: value.dtype for key, value in action.items()} == {key: sample[key].dtype for key in sample}
        return super().step(action)


@pytest.mark.each_value
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("env_fn", [TypeEnv, NestedTypeEnv])
async def test_actions_are_of_the_types_that_the_space_gives(kind, env_fn):
    async with small(kind, env_fn, max_decorrelation_steps=3) as sampler:
        for _ in range(2):
            assert (await sampler.obtain_samples()).valid.all()


class Generous(CountingEnv):
    """Its third reward is more than float32 holds, though it is finite."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 1e39 if observation[2] == 3 else np.inf if observation[2] == 2 else reward, *rest


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("kind", ["in-process", "cpu"])
async def test_a_reward_that_becomes_infinite_where_it_is_recorded_is_refused(kind):
    async with small(kind, Generous, batch_T=2) as sampler:
        assert torch.isinf((await sampler.obtain_samples()).env.reward[1]).all()  # as the environment gave it
        with pytest.raises(WorkerError, match=r"step 0 of the batch.*reward does not fit: 1e\+39 is infinite"):
            await sampler.obtain_samples()


class Forgetful(TrajInfo):
    def terminate(self, observation):
        self.last = observation


async def test_an_info_that_reports_nothing_is_refused():
    with pytest.raises(WorkerError, match=r"Forgetful.terminate\(\) must return what to report, such as self"):
        async with small("in-process", CountingEnv, traj_info_cls=Forgetful) as sampler:
            for _ in range(9):
                await sampler.obtain_samples()
    with pytest.raises(
        WorkerError, match=r"Forgetful.terminate\(\) must return what to report"
    ):  # of an episode that is cut
        arguments = {"traj_info_cls": Forgetful, "eval_n_envs": 1, "eval_max_steps": 2}
        async with small("in-process", lambda: CountingEnv(shortest=5), **arguments) as sampler:
            await sampler.evaluate_agent()
