"""Environments that are drawn at random, and the batches that they must give, written by hand.

Every value follows from (seed, episode, step) alone, and comes in a dress that environments of others wear: Fortran
order, negative strides, read-only, lists, NumPy scalars, torch tensors, one buffer for all environments of a process.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from aiosampler import environment_seed

DRESSES = ("plain", "fortran", "reversed", "readonly", "strided", "list", "scalar", "torch", "wide", "shared")


#: What is zero where a column is blank.
ROWS = (
    "observation",
    "first",
    "reward",
    "prev_reward",
    "env_info",
    "env_info_present",
    "prev_env_info",
    "prev_env_info_present",
)


def draw(space, rng):
    """An element of a space, as plain arrays."""
    match space:
        case spaces.Dict():
            return {key: draw(child, rng) for key, child in space.spaces.items()}
        case spaces.Tuple():
            return tuple(draw(child, rng) for child in space.spaces)
        case spaces.Discrete():
            return np.asarray(space.start + rng.integers(space.n))
        case spaces.MultiDiscrete():
            return (space.start + rng.integers(space.nvec)).astype(space.dtype)
        case spaces.MultiBinary():
            return rng.integers(2, size=space.shape, dtype=space.dtype)
    if space.dtype.kind == "f":
        return np.asarray(rng.standard_normal(space.shape).astype(space.dtype))
    limits = np.iinfo(space.dtype)
    return np.asarray(rng.integers(limits.min, limits.max, space.shape, space.dtype, endpoint=True))


_SHARED: dict[str, np.ndarray] = {}


def dressed(array, dress, place):
    """The same values as another program might return them."""
    match dress:
        case "fortran":
            return np.array(array, order="F")
        case "reversed" if array.ndim:
            return array[::-1].copy()[::-1]
        case "readonly":
            array.setflags(write=False)
            return array
        case "strided" if array.ndim:
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        case "list" if array.dtype != np.uint64:  # NumPy takes a list of small and large ones for floats
            return array.tolist()
        case "scalar" if array.ndim == 0:
            return array[()]
        case "torch":
            return torch.from_numpy(array.copy())
        case "wide" if array.dtype.kind == "f":
            return array.astype(np.float64)
        case "shared":
            buffer = _SHARED.setdefault(f"{place} {array.shape} {array.dtype}", np.empty_like(array))
            buffer[...] = array
            return buffer
    return array


def dress_up(tree, dresses, rng, place=""):
    """A tree with each of its arrays dressed anew."""
    if isinstance(tree, dict):
        return {key: dress_up(child, dresses, rng, f"{place}.{key}") for key, child in tree.items()}
    if isinstance(tree, tuple):
        return tuple(dress_up(child, dresses, rng, f"{place}.{i}") for i, child in enumerate(tree))
    return dressed(tree, dresses[rng.integers(len(dresses))], place)


@dataclass(frozen=True)
class Plan:
    """What a world is like; `fault` makes it return that, at the fifth step of its life, in place of one leaf."""

    observation_space: gym.Space
    action_space: gym.Space
    longest: int
    dresses: tuple[str, ...] = DRESSES
    crash_every: int = 0  # a process raises at some step, about this often
    fault: Any = None  # (path of keys, value)


class PlannedEnv(gym.Env):
    def __init__(self, plan):
        self.plan = plan
        self.observation_space, self.action_space = plan.observation_space, plan.action_space
        self.episode, self.lived = -1, 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed = seed
        self.episode, self.step_count = self.episode + 1, 0
        return self._dressed(self.facts().observation), self.facts().info

    def facts(self):
        return Facts.of(self.plan, self.seed, self.episode, self.step_count)

    def step(self, action):
        assert self.action_space.contains(_as_sampled(self.action_space, action)), f"not of the space: {action!r}"
        self.step_count += 1
        self.lived += 1
        facts = self.facts()
        if self.plan.crash_every and facts.crashes and self.lived > 12:  # not the example
            raise RuntimeError("the world ends here")
        observation = self._dressed(facts.observation)
        if self.plan.fault and self.lived == 5:
            observation = _replaced(observation, *self.plan.fault)
        return observation, facts.reward, facts.terminated, facts.truncated, facts.info

    def _dressed(self, tree):
        return dress_up(tree, self.plan.dresses, np.random.default_rng([self.seed, self.episode, self.step_count, 1]))


def _as_sampled(space, action):
    """Discrete actions that are plain integers, as `contains` of any release takes them."""
    if isinstance(space, spaces.Dict):
        return {key: _as_sampled(child, action[key]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_as_sampled(child, part) for child, part in zip(space.spaces, action, strict=True))
    return np.int64(action) if isinstance(space, spaces.Discrete) else action


def _replaced(tree, path, value):
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, dict):
        return {**tree, key: _replaced(tree[key], rest, value)}
    return tuple(_replaced(part, rest, value) if i == key else part for i, part in enumerate(tree))


@dataclass(frozen=True)
class Facts:
    """What a world says at a step."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict
    crashes: bool

    @classmethod
    def of(cls, plan, seed, episode, step):
        rng = np.random.default_rng([seed, episode, step])
        observation = draw(plan.observation_space, rng)
        ends = rng.random() * plan.longest < 1 or step >= plan.longest
        kind = rng.integers(3)
        info = {"count": step} if rng.random() < 0.7 else {}
        return cls(
            observation,
            float(rng.standard_normal()),
            bool(step and ends and kind != 1),
            bool(step and ends and kind != 0),
            info,
            bool(plan.crash_every and step and rng.integers(plan.crash_every) == 0),
        )


class Replay:
    """Follows a sampler's batches column by column, and says at once where one is not what it must be.

    Args:
        plan: Of all environments.
        seed: Of the sampler.
        B: Environments.
        mid_batch_reset: As the sampler's argument.
        restarts: Whether columns may be cut because a worker was lost.
    """

    def __init__(self, plan, seed, B, *, mid_batch_reset=True, restarts=False):
        self.plan, self.seed, self.wait, self.restarts = plan, seed, not mid_batch_reset, restarts
        self.columns = [Column(plan, seed, b) for b in range(B)]
        self.steps = 0
        self.lost = False  # whether a worker was lost in the batch before

    def check(self, samples):
        arrays = {
            "agent": {name: numpied(getattr(samples.agent, name)) for name in ("action", "prev_action")},
            **{name: numpied(getattr(samples.env, name)) for name in (*ROWS, "terminated", "truncated", "done")},
            "last": numpied(samples.env.last_observation),
            "next": numpied(samples.env.next_observation()),
            "valid": samples.valid.numpy(),
        }
        ends = [end for column in self.columns for end in self._column(column, samples, arrays)]
        ends.sort(key=lambda end: end[:2])
        final = samples.env.final_observation
        assert list(zip(final.t.tolist(), final.b.tolist(), strict=True)) == [end[:2] for end in ends]
        told, expected = [(info.Length, info.Return) for info in samples.traj_infos], [end[2] for end in ends]
        if samples.stats.restarts:  # those of the workers that were lost are lost, too
            expected = [episode for episode in expected if episode in told]
        assert told == expected
        self.lost = samples.stats.restarts > 0
        self.steps += int(samples.valid.sum())

    def _column(self, column, samples, arrays):
        b, T = column.b, len(arrays["reward"])
        valid = arrays["valid"][:, b]
        if valid[0]:
            column.begin(leaf(arrays["observation"], 0, b), may_be_lost=self.lost)
        ends = []
        cut = T if valid.all() else int(valid.argmin())
        for t in range(cut):
            same(arrays["observation"], (t, b), column.facts.observation, "observation")
            same(arrays["agent"]["prev_action"], (t, b), column.prev_action(arrays), "prev_action")
            assert arrays["prev_reward"][t, b] == np.float32(column.prev_reward)
            assert arrays["first"][t, b] == (column.step_count == 0)
            before = column.facts
            column.step(leaf(arrays["agent"]["action"], t, b))
            facts = column.facts
            assert arrays["reward"][t, b] == np.float32(facts.reward)
            assert (arrays["terminated"][t, b], arrays["truncated"][t, b]) == (facts.terminated, facts.truncated)
            assert arrays["done"][t, b] == (facts.terminated or facts.truncated)
            for name, info in (("env_info", facts.info), ("prev_env_info", before.info)):
                assert arrays[f"{name}_present"]["count"][t, b] == ("count" in info)
                assert arrays[name]["count"][t, b] == info.get("count", 0)
            last_kept = t + 1 == cut < T  # what it led to is lost
            if arrays["done"][t, b] or not last_kept:
                same(arrays["next"], (t, b), facts.observation, "next_observation()")
            if arrays["done"][t, b]:
                same_tree(numpied(samples.env.final_observation[t, b]), facts.observation, "final_observation")
                ends.append((t, b, column.episode_told()))
                column.end(waits=self.wait)
        for name in (*ROWS, "agent"):
            assert all(not part[cut:, b].any() for part in leaves(arrays[name])), f"{name} is not blank"
        if cut < T and not column.waits:
            assert self.restarts, "a column is cut"
            column.lost = True
        elif cut == T and not column.waits:
            same(arrays["last"], (b,), column.facts.observation, "last_observation")
        return ends


class Column:
    def __init__(self, plan, seed, b):
        self.plan, self.sampler_seed, self.b, self.generation = plan, seed, b, 0
        self.waits = self.lost = False
        self._start(environment_seed(seed, b))

    def _start(self, seed):
        self.seed, self.episode = seed, -1
        self._reset()

    def _reset(self):
        self.episode, self.step_count, self.length, self.total = self.episode + 1, 0, 0, 0.0
        self.prev_reward, self.last_action = 0.0, None
        self.facts = Facts.of(self.plan, self.seed, self.episode, 0)

    def step(self, action):
        self.step_count += 1
        self.facts = Facts.of(self.plan, self.seed, self.episode, self.step_count)
        self.length, self.total = self.length + 1, self.total + self.facts.reward
        self.prev_reward, self.last_action = self.facts.reward, action

    def prev_action(self, arrays):
        if self.last_action is not None:
            return self.last_action
        return tree_zeros(leaf(arrays["agent"]["prev_action"], 0, self.b))

    def episode_told(self):
        return (self.length, self.total)

    def end(self, *, waits):
        self.waits = waits
        if not waits:
            self._reset()

    def begin(self, seen, *, may_be_lost):
        """Row 0 of a batch: what follows, the next episode after a wait, or a later generation after a loss."""
        if self.waits:
            self._reset()
        self.waits = False
        if not self.lost and not (may_be_lost and not equal(seen, self.facts.observation)):
            return
        for generation in range(self.generation + 1, self.generation + 50):
            self._start(environment_seed(self.sampler_seed, self.b, restarts=generation))
            if equal(seen, self.facts.observation):
                self.generation, self.lost = generation, False
                return
        raise AssertionError(f"environment {self.b} begins as no restarted one does")


def numpied(tree):
    if isinstance(tree, dict):
        return {key: numpied(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map(numpied, tree))
    return tree.numpy().copy()  # what is remembered outlives the batch


def leaf(tree, *place):
    if isinstance(tree, dict):
        return {key: leaf(value, *place) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(leaf(value, *place) for value in tree)
    return tree[place]


def leaves(tree):
    if isinstance(tree, dict | tuple):
        return [each for child in (tree.values() if isinstance(tree, dict) else tree) for each in leaves(child)]
    return [tree]


def tree_zeros(tree):
    if isinstance(tree, dict):
        return {key: tree_zeros(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map(tree_zeros, tree))
    return np.zeros_like(tree)


def equal(got, expected):
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(equal(got[key], expected[key]) for key in expected)
    if isinstance(expected, tuple):
        return len(got) == len(expected) and all(map(equal, got, expected))
    got, expected = np.asarray(got), np.asarray(expected)
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def same_tree(got, expected, what):
    assert equal(got, expected), f"{what} is {got}, must be {expected}"


def same(tree, place, expected, what):
    same_tree(leaf(tree, *place), expected, f"{what}{list(place)}")


def with_fault(plan, path, value):
    return dataclasses.replace(plan, fault=(path, value))
