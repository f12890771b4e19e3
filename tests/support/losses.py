"""Environments that are lost at a known step, and what a batch must hold then."""

import functools

import torch

from aiosampler import environment_seed
from tests.support.agents import AgeAgent
from tests.support.in_process import InProcess
from tests.support.samplers import leaves, small
from tests.support.worlds import CountingEnv, DetailedTrajInfo, Fated

SEED, B = 5, 8


def four_workers(kind, env_fn=CountingEnv, **arguments):
    """A sampler of four workers with two environments each, of which one may be lost."""
    defaults = {"batch_B": B, "n_workers": 4, "max_worker_restarts": 1, "agent": AgeAgent(), "bootstrap_value": True}
    return small(kind, env_fn, **{**defaults, "traj_info_cls": DetailedTrajInfo, **arguments})


def oracle(**arguments):
    defaults = {"batch_T": 5, "batch_B": B, "seed": SEED, "agent": AgeAgent(), "bootstrap_value": True}
    return InProcess(CountingEnv, **{**defaults, "traj_info_cls": DetailedTrajInfo, **arguments})


def fated(fault, *environments, n=12, evaluation=False, generations=(0,)):
    seeds = [environment_seed(SEED, b, evaluation=evaluation, restarts=g) for b in environments for g in generations]
    return functools.partial(Fated, fault, seeds, n)


def assert_others_same(got, expected, lost):
    """All but the columns `lost` are those of a run without failure, bit for bit."""
    others = [b for b in range(B) if b not in lost]
    pairs = list(zip(leaves(got), leaves(expected), strict=True))
    assert len(pairs) > 12
    for (name, a), (_, b) in pairs:
        if ".final_" not in name:
            per_environment = any(part in name for part in ("bootstrap_value", "initial_state", "last_observation"))
            pick = (others,) if per_environment else (slice(None), others)
            assert torch.equal(a[pick], b[pick]), name
    assert ends(got.env.final_observation, others) == ends(expected.env.final_observation, others)
    assert ends(got.agent.final_value, others) == ends(expected.agent.final_value, others)
    infos = [
        [vars(info) for info in samples.traj_infos if info.last[0] not in seeds(lost)] for samples in (got, expected)
    ]
    assert infos[0] == infos[1]


def ends(given, environments):
    """What episodes of some environments ended with, by step and environment."""
    t, b, each = (leaf.tolist() for leaf in given.as_dict().values())
    return {(s, i): end for s, i, end in zip(t, b, each, strict=True) if i in environments}


def seeds(environments, restarts=(0, 1)):
    return {environment_seed(SEED, b, restarts=g) for b in environments for g in restarts}


def assert_whole(samples):
    """What is not valid is zero everywhere, and the facts of a batch fit each other."""
    blank = ~samples.valid
    for name, leaf in leaves(samples):
        if leaf.shape[:2] == blank.shape:
            assert not leaf[blank].any(), name
    assert torch.equal(samples.env.done, samples.env.terminated | samples.env.truncated)
    ends = torch.nonzero(samples.env.done)
    assert torch.equal(torch.stack([samples.env.final_observation.t, samples.env.final_observation.b], 1), ends)
    age, step = samples.agent.agent_info["age"], samples.env.observation[..., 2]
    assert torch.equal(age[samples.valid].long(), step[samples.valid])  # recurrent state begins with each episode
    assert torch.equal(samples.env.first, samples.valid & (step == 0))


class Replay:
    """Steps a fresh environment beside a column, from the seed of its replacement on."""

    def __init__(self, b, mid_batch_reset, restarts=1):
        self._b, self._mid = b, mid_batch_reset
        self._env = CountingEnv()
        self._next, _ = self._env.reset(seed=environment_seed(SEED, b, restarts=restarts))

    def check(self, samples):
        valid, env, b = samples.valid[:, self._b], samples.env, self._b
        for t in torch.nonzero(valid)[:, 0].tolist():
            assert env.observation[t, b].tolist() == self._next.tolist()
            self._next, reward, terminated, truncated, _ = self._env.step(int(samples.agent.action[t, b]))
            assert (env.reward[t, b], env.terminated[t, b], env.truncated[t, b]) == (reward, terminated, truncated)
            if terminated or truncated:
                assert env.final_observation[t, b].tolist() == self._next.tolist()
                self._next, _ = self._env.reset()
        last = samples.env.last_observation[b]
        if self._mid or not env.done[:, b].any():
            assert valid.all()
            assert last.tolist() == self._next.tolist()
        else:
            assert not last.any()
