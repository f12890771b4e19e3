"""What env_fn made, where it is no environment of Gymnasium, is said in one sentence."""

import asyncio
import gc
import weakref

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from aiosampler import ConfigError, RandomAgent
from aiosampler.collectors.environment_checks import (
    api_error,
    check_environment,
    check_reset,
    check_step,
    check_vector,
    needs_loop,
)
from aiosampler.collectors.environments import EnvironmentFault, OwnInstances
from tests.support.in_process import InProcess
from tests.support.worlds import CountingEnv

OBSERVATION = np.zeros(3, np.int64)


async def _generates():
    yield CountingEnv()


class _Stepless:
    async def reset(self, *, seed=None, options=None): ...


class _Pool:
    """Has what EnvPool's environments have."""

    observation_space, action_space = CountingEnv().observation_space, CountingEnv().action_space

    def reset(self, seed=None): ...
    def step(self, action): ...
    def close(self): ...
    def send(self, action): ...
    def recv(self): ...
    def async_reset(self): ...


class _Concatenated(CountingEnv):
    """Has what SuperSuit's environments have."""

    num_envs = 3
    single_observation_space = spaces.Discrete(2)


class _Stepwise(CountingEnv):
    num_envs = 3

    def step_async(self, actions): ...
    def step_wait(self): ...


class _Several(CountingEnv):
    possible_agents = ("a", "b")


class _AsyncReset(CountingEnv):
    async def reset(self, *, seed=None, options=None): ...


class _AsyncStep(CountingEnv):
    async def step(self, action): ...


class _AsyncClose(CountingEnv):
    async def close(self): ...


class _Unseeded(CountingEnv):
    def reset(self):
        return super().reset(seed=0)


class _NoClose:
    observation_space, action_space = CountingEnv().observation_space, CountingEnv().action_space

    def reset(self, seed=None): ...
    def step(self, action): ...


class _DmEnv:
    def reset(self): ...
    def step(self, action): ...
    def observation_spec(self): ...


class _NoSpace(CountingEnv):
    def __init__(self):
        super().__init__()
        del self.observation_space


class _Raising(CountingEnv):
    @property
    def action_space(self):
        raise RuntimeError("not before reset")

    @action_space.setter
    def action_space(self, space): ...


class _RaisingAttributeError(CountingEnv):
    @property
    def action_space(self):
        raise AttributeError("no limbs")

    @action_space.setter
    def action_space(self, space): ...


class _SpaceIsMethod(CountingEnv):
    def __init__(self):
        super().__init__()
        self.observation_space = lambda agent: spaces.Discrete(2)


class _OldSpace(CountingEnv):
    def __init__(self):
        super().__init__()
        self.observation_space = type("Box", (), {"__module__": "gym.spaces.box", "shape": (3,)})()


class _Unprintable(CountingEnv):
    num_envs = 2
    single_observation_space = None

    def __str__(self):
        raise RuntimeError("no name")


async def _coroutine_function():
    return CountingEnv()


@pytest.mark.parametrize("make", [_coroutine_function, _AsyncReset, _AsyncStep, _AsyncClose])
def test_what_is_for_an_event_loop_is_told_from_what_is_not(make):
    made = make()
    assert needs_loop(made)
    assert not needs_loop(CountingEnv())
    if make is _coroutine_function:
        made.close()
    else:
        assert check_environment(made) is made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "got None: does it lack a return"),
        (lambda: CountingEnv, "got the class .*CountingEnv'>: call it"),
        (lambda: "CartPole-v1", "must return a Gymnasium environment, got 'CartPole-v1'"),
        (_DmEnv, "got .*_DmEnv.*shimmy.DmControlCompatibilityV0"),
        (lambda: gym.make_vec("CartPole-v1", num_envs=2), "vector environment of 2, .*return a single one"),
        (_Concatenated, "vector environment of 3"),
        (_Stepwise, "vector environment of 3"),
        (_Pool, "vector environment, "),
        (_Unprintable, "vector environment of 2"),
        (_Several, "environment of several agents"),
        (lambda: gym.wrappers.TimeLimit(_AsyncStep(), 9), r"step\(\) of _AsyncStep is .* TimeLimit does not await it"),
        (_Stepless, r"got .*_Stepless.*, which has no method step\(\)"),
        (_generates, "got <async_generator object .*: decorate env_fn by contextlib.asynccontextmanager"),
        (_Unseeded, r"reset\(\) does not take seed as a keyword"),
        (_NoClose, r"no method close\(\)"),
        (_NoSpace, "has no observation_space; set it"),
        (_Raising, "action_space of .* raised RuntimeError: not before reset"),
        (_RaisingAttributeError, "action_space of .* raised AttributeError: no limbs"),
        (_SpaceIsMethod, "observation_space must be a space of gymnasium.spaces, got <function"),
        (_OldSpace, r"observation_space is .* of gym\.spaces\.box: the old package gym; use gymnasium\.spaces"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
def test_what_is_no_environment_is_named(make, words):
    with pytest.raises(TypeError, match=words) as caught:
        check_environment(make())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class _Plain:
    """Not of Gymnasium's class."""

    observation_space, action_space = CountingEnv().observation_space, CountingEnv().action_space
    num_envs = 1  # as some robots' worlds have

    def reset(self, seed=None, options=None): ...
    def step(self, action): ...
    def close(self): ...


@pytest.mark.parametrize(
    "make", [CountingEnv, _Plain, lambda: gym.make("CartPole-v1"), lambda: gym.wrappers.TimeLimit(CountingEnv(), 9)]
)
def test_what_is_one_passes(make):
    env = make()
    assert check_environment(env) is env
    env.close()


async def _later():
    return OBSERVATION, {}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (OBSERVATION, r"reset\(\) must return \(observation, info\), .*; it returned array"),
        (OBSERVATION[:2], r"it returned array\(\[0, 0\]\)"),
        ((OBSERVATION, OBSERVATION), r"it returned \(array"),
        ((OBSERVATION, {}, {}), r"it returned \(array"),
        (None, "it returned None"),
        (_later, "is no coroutine function: write it as async def"),
    ],
    ids=["old", "two numbers", "tuple space", "three", "none", "coroutine"],
)
def test_a_reset_that_gives_no_pair(result, words):
    with pytest.raises(TypeError, match=words):
        check_reset(result() if callable(result) else result)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((OBSERVATION, 0.0, False, {}), "it returned .*, 4 items: an environment of the old API needs a wrapper"),
        ((OBSERVATION, 0.0, 0.0, False, False, {}), "6 items: put what is beyond the five into info"),
        ((OBSERVATION, 0.0, False, False, None), "whose info is no dict"),
        (OBSERVATION, "it returned array"),
        (np.zeros((200, 200, 3)), "it returned array"),
        (_later, "is no coroutine function: write it as async def"),
    ],
    ids=["four", "six", "no info", "array", "large", "coroutine"],
)
def test_a_step_that_gives_no_five(result, words):
    with pytest.raises(TypeError, match=words) as caught:
        check_step(result() if callable(result) else result)
    assert len(str(caught.value)) < 500


class _Changing(CountingEnv):
    """Gives other results than Gymnasium's from one step, or one reset, on."""

    def __init__(self, step=None, reset=None, after=3):
        super().__init__()
        self._results, self._left = {"step": step, "reset": reset}, after

    def _given(self, name, result):
        self._left -= 1
        bad = self._results[name]
        return result if bad is None or self._left >= 0 else bad() if callable(bad) else bad

    def step(self, action):
        return self._given("step", super().step(action))

    def reset(self, *, seed=None, options=None):
        return self._given("reset", super().reset(seed=seed))


class _Awaited(gym.vector.SyncVectorEnv):
    async def step(self, actions): ...


async def make_vector(num_envs):
    return gym.vector.SyncVectorEnv([CountingEnv] * num_envs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda n: _Awaited([CountingEnv] * n),
            r"^step\(\) of the vector environment _Awaited.* is a coroutine function",
        ),
        (make_vector, "^env_fn has a parameter num_envs, and returned an awaitable"),
    ],
    ids=["step", "env_fn"],
)
def test_vector_environments_are_not_awaited(make, words):
    with pytest.raises(TypeError, match=f"{words}.*; vector environments are called, not awaited"):
        check_vector(make(3), 3)


WRAPPERS = {
    "none": lambda env: env,
    "time": lambda env: gym.wrappers.TimeLimit(env, 99),
    "statistics": lambda env: gym.wrappers.RecordEpisodeStatistics(env),
}
BROKEN = {"four": {"step": (1, 2, 3, 4)}, "six": {"step": (1, 2, 3, 4, 5, 6)}, "none": {"step": lambda: None}}


@pytest.mark.parametrize("after", [0, 6], ids=["at once", "later"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("results", [*BROKEN.values(), {"reset": np.zeros(4)}], ids=[*BROKEN, "reset"])
def test_the_rule_that_is_broken_is_named_also_later_and_within_wrappers(results, wrap, after):
    with pytest.raises(EnvironmentFault) as caught:
        sampler = InProcess(
            lambda: wrap(_Changing(**results, after=after)), agent=RandomAgent(), batch_T=20, batch_B=2, seed=1
        )
        sampler.collect()
    assert str(caught.value.__cause__).startswith(f"{next(iter(results))}() must return (observation")


def test_one_that_needs_a_running_loop_where_none_runs_is_told_what_to_write():
    with pytest.raises(RuntimeError, match="no running event loop") as caught:
        asyncio.get_running_loop()
    assert "if this comes from env_fn, write it as async def" in str(api_error(caught.value))


def test_an_environment_that_was_replaced_is_not_kept():
    own, first = OwnInstances(), CountingEnv()
    own.add(first, "environment 1")
    for name in ("environment 1", "environment 2"):
        with pytest.raises(ConfigError, match=f"the same CountingEnv for environment 1 and for {name}"):
            own.add(gym.wrappers.TimeLimit(first, 9), name)
    gone = weakref.ref(first)
    del first
    own.add(CountingEnv(), "environment 1")
    gc.collect()
    assert gone() is None


def test_other_errors_are_left_as_they_are():
    def step():
        _, _ = 1, 2, 3  # the environment's own fault

    for function in (step, lambda: int("x")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - whatever it says
            function()
        assert api_error(caught.value) is caught.value
