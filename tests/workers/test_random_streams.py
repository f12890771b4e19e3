"""What agents draw: the same in each run with a seed, whoever acts first, whether there is evaluation in between."""

import functools
import itertools
import os
import random

import numpy as np
import pytest
import torch

from aiosampler import (
    AsyncAlternatingSampler,
    RandomAgent,
    environment_seed,
)
from aiosampler.workers.random_streams import GroupStream
from tests.support.agents import LookingAgent, NoisyAgent
from tests.support.in_process import InProcess
from tests.support.samplers import EVERYWHERE, assert_same, small
from tests.support.worlds import CountingEnv

pytestmark = [pytest.mark.usefixtures("no_leaks", "same_generators"), pytest.mark.same_code]


DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "torch, normal": lambda: torch.randn(()).item(),
    "numpy": np.random.rand,
    "numpy, normal": np.random.normal,  # draws two, and keeps one
    "numpy, integer": lambda: np.random.randint(2**31),
    "random": random.random,
    "random, normal": random.gauss,  # likewise
    "random, choice": lambda: random.choice(range(10**6)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("often", [(1,), (2,), (0, 1), (1, 0, 0, 3)], ids=str)
def test_the_draws_of_a_group_do_not_depend_on_when_others_act(draw, often):
    orders = [[0, 1] * 8, [0] * 8 + [1] * 8, [1, 1, 0] * 5 + [0] * 3, [1, 0] * 8]
    found = []
    for order in orders:
        streams, drawn = [GroupStream(7), GroupStream(8)], [[], []]
        counts = [itertools.cycle(often), itertools.cycle(often)]
        for group in order:
            draw()  # somebody else's
            with streams[group]:
                drawn[group] += [draw() for _ in range(next(counts[group]))]
        found.append([numbers[: sum(itertools.islice(itertools.cycle(often), 5))] for numbers in drawn])
    assert all(numbers == found[0] for numbers in found)
    assert found[0][0] != found[0][1]
    everything = found[0][0] + found[0][1]
    assert len(set(everything)) == len(everything)  # none came twice


def test_a_group_leaves_numpys_generator_as_it_was():
    np.random.seed(1)
    expected = np.random.rand(6)
    np.random.seed(1)
    found = list(np.random.rand(3))
    with GroupStream(3):
        np.random.seed(5)
        np.random.rand(9)
    assert [*found, *np.random.rand(3)] == expected.tolist()


class DrawingAgent(LookingAgent):
    """Draws from all global generators, now more, now less, in each of its methods, and tells it."""

    offset = 0.0

    def recv_shared_memory(self):
        self._draw(1)
        return super().recv_shared_memory()

    def sample_mode(self, itr):
        super().sample_mode(itr)
        self.offset = self._draw(1)

    def eval_mode(self, itr):
        super().eval_mode(itr)
        self._draw(3)
        self.offset = 0.0

    def step(self, inputs, state):
        step = super().step(inputs, state)
        n = len(step.action)
        count = int(step.action.sum()) % 3
        drawn = torch.tensor([self._draw(count) + self.offset for _ in range(n)])
        info = {"drawn": drawn, "count": torch.full((n,), count)}
        return step._replace(action=(drawn * 1000).long() % 5, agent_info=info)

    def value(self, inputs, state):
        return super().value(inputs, state) + self._draw(1)

    def _draw(self, n):
        numbers = [torch.rand(()).item(), np.random.normal(), random.gauss(0, 1), random.random(), np.random.rand()]
        return sum(numbers[:n], torch.randn(()).item() if n else 0.0)


class UnsteadyEnv(CountingEnv):
    """Takes longer at some steps than at others, and in another run at other steps; draws from global generators."""

    def step(self, action):
        for _ in range(8 * os.urandom(1)[0]):
            pass
        observation, reward, *rest = super().step(action)
        return observation, reward + np.random.rand() + random.random(), *rest


@pytest.mark.each_kind
@pytest.mark.parametrize(
    ("kind", "agent"),
    [
        *((kind, DrawingAgent) for kind in EVERYWHERE if kind != "dynamic"),
        (functools.partial(AsyncAlternatingSampler, n_workers=4, device=["cpu", "cpu"]), DrawingAgent),
        *((kind, RandomAgent) for kind in ("cpu", "alternating")),
    ],
)
async def test_runs_with_one_seed_are_the_same_whether_there_is_evaluation_or_not(kind, agent):
    arguments = {
        "agent": agent(), "batch_T": 5, "batch_B": 8, "seed": 11, "bootstrap_value": True,
        "eval_n_envs": 6, "eval_max_steps": 90,
    }  # fmt: skip
    async with small(kind, UnsteadyEnv, **arguments) as one, small(kind, UnsteadyEnv, **arguments) as other:
        drawn = []
        for itr in range(4):
            samples = await one.obtain_samples()
            assert_same(samples, await other.obtain_samples())
            drawn.append(samples.clone())
            if itr in (1, 2):
                await one.evaluate_agent()
        if agent is DrawingAgent:  # no two of those that act draw the same
            info = [samples.agent.agent_info for samples in drawn]
            numbers = torch.cat([leaf["drawn"][leaf["count"] > 0] for leaf in info])
            assert len(numbers.unique()) == len(numbers) > 10
        evaluations = [[repr(info) for info in await sampler.evaluate_agent()] for sampler in (one, other)]
    assert evaluations[0] != evaluations[1]  # it goes on from evaluation to evaluation


@pytest.mark.parametrize("kind", ["cpu", "alternating"])
async def test_evaluations_repeat_too(kind):
    arguments = {
        "agent": DrawingAgent(), "batch_T": 5, "batch_B": 8, "seed": 2, "eval_n_envs": 4, "eval_max_steps": 60,
    }  # fmt: skip
    found = []
    for batches in (0, 2):
        async with small(kind, UnsteadyEnv, **arguments) as sampler:
            for _ in range(batches):
                await sampler.obtain_samples()
            found.append([repr(info) for _ in range(2) for info in await sampler.evaluate_agent()])
    assert found[0] == found[1]


class SelfSeededEnv(CountingEnv):
    """Keeps the seeds that it is given, and refuses what native environments would."""

    seeds = []  # noqa: RUF012 - shared by all, to be looked at

    def __init__(self):
        super().__init__()
        self.action_space.seed = self._seed_actions

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            np.int32(seed)
            self.seeds.append(("reset", seed))
        return super().reset(seed=seed)

    def _seed_actions(self, seed):
        np.int32(seed)
        self.seeds.append(("actions", seed))
        return type(self.action_space).seed(self.action_space, seed)


def test_all_seeds_of_environments_fit_a_signed_integer_of_32_bits_and_none_is_used_twice():
    SelfSeededEnv.seeds.clear()
    InProcess(SelfSeededEnv, agent=LookingAgent(), batch_T=2, batch_B=40, seed=5, max_decorrelation_steps=3).close()
    assert {kind for kind, _ in SelfSeededEnv.seeds} == {"reset", "actions"}
    seeds = [seed for _, seed in SelfSeededEnv.seeds]
    assert len(seeds) == 82  # of which two are the example's
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= environment_seed(s, b) < 2**31 for s in range(20) for b in range(50))


@pytest.mark.each_value
@pytest.mark.each_kind
@pytest.mark.parametrize("n_workers", [2, 4])
async def test_a_stochastic_agent_repeats_itself_for_each_number_of_workers(lockstep, n_workers):
    async def actions():
        async with lockstep(agent=NoisyAgent(), n_workers=n_workers) as sampler:
            return torch.stack([(await sampler.obtain_samples()).agent.action.clone() for _ in range(4)])

    first = await actions()
    assert torch.equal(first, await actions())
    assert len({tuple(column) for column in first.flatten(0, 1).T.tolist()}) == 4  # nobody draws another's noise
