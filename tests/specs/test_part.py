"""Samplers that are parts of one: together they record what it would, and nobody draws what another draws."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from aiosampler import ConfigError, EnvContext, Spaces, environment_seed
from aiosampler.engines.assignments import assign
from aiosampler.specs.part import Part
from aiosampler.workers import random_streams
from aiosampler.workers.served_acting import OwnPaceActing
from tests.support.agents import LookingAgent, NoisyAgent
from tests.support.in_process import InProcess
from tests.support.samplers import leaves, small
from tests.support.worlds import ChaoticEnv, CountingEnv


class NumberedAgent(LookingAgent):
    """Tells of each environment which one it is, and of how many."""

    def collector_initialize(self, global_B, env_ranks):
        self._ranks, self._global_B = torch.tensor(list(env_ranks)), global_B

    def step(self, inputs, state):
        step = super().step(inputs, state)
        ranks = self._ranks if inputs.environments is None else self._ranks[inputs.environments]
        return step._replace(agent_info={"rank": ranks.clone(), "of": torch.full_like(ranks, self._global_B)})


BUILT = []  # contexts and doors


def remember(*, context, door):
    BUILT.append((context, door))
    return CountingEnv()


def columns(samples, first, n):
    """The leaves of a batch, cut to some environments; what episodes ended with is not cut."""
    for name, leaf in leaves(samples):
        if "final" not in name:
            yield name, leaf[:, first : first + n] if leaf.dim() > 1 and len(leaf) == 6 else leaf[first : first + n]


@pytest.mark.parametrize("seed_every_reset", [False, True], ids=["first-seeded", "every-reset-seeded"])
@pytest.mark.parametrize("env_fn", [CountingEnv, ChaoticEnv])
def test_two_parts_record_the_columns_of_the_whole(env_fn, seed_every_reset):
    arguments = {"agent": LookingAgent(), "batch_T": 6, "seed": 3, "max_decorrelation_steps": 9}
    arguments |= {"eval_max_steps": 200, "seed_every_reset": seed_every_reset}
    whole = InProcess(env_fn, batch_B=8, eval_n_envs=4, **arguments)
    parts = [InProcess(env_fn, Part(k, 2), batch_B=4, eval_n_envs=2, **arguments) for k in range(2)]
    for _ in range(3):
        expected = whole.collect()
        for k, part in enumerate(parts):
            pairs = zip(columns(part.collect(), 0, 4), columns(expected, 4 * k, 4), strict=True)
            assert [name for (name, a), (_, b) in pairs if not torch.equal(a, b)] == []
    for one in (whole, *parts):
        one.close()


def test_the_context_and_the_agent_count_the_environments_of_all():
    BUILT.clear()
    settings = {"agent": NumberedAgent(), "batch_T": 2, "batch_B": 2, "seed": 4}
    part = InProcess(remember, Part(2, 3, restarts=1), env_kwargs=[{"door": "left"}, {"door": "right"}], **settings)
    samples = part.collect()
    assert samples.agent.agent_info["rank"][0].tolist() == [4, 5]
    assert samples.agent.agent_info["of"].unique().tolist() == [6]
    (example, _), *built = BUILT
    assert example is None
    assert [door for _, door in built] == ["left", "right"]  # what is given for each is of this sampler
    context, _ = built[0]
    seed = environment_seed(4, 4, restarts=1)
    assert context == EnvContext(index=4, n=6, evaluation=False, restarts=1, seed=seed, worker=None)
    assert samples.env.observation[0, :, 0].tolist() == [seed, environment_seed(4, 5, restarts=1)]
    part.close()


def test_parts_draw_apart_and_so_does_one_that_replaces_another():
    def actions(*part):
        made = InProcess(CountingEnv, Part(*part), agent=NoisyAgent(), batch_T=20, batch_B=4, seed=3)
        drawn = made.collect().agent.action.clone()
        made.close()
        return drawn

    assert torch.equal(actions(0, 2), actions(0, 1))
    others = [actions(0, 2), actions(1, 2), actions(0, 2, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])


def test_ranks_with_different_numbers_of_workers_draw_apart(monkeypatch):
    drawn_by = []
    monkeypatch.setattr(random_streams, "seed_generators", drawn_by.append)
    for rank, n_workers in ((0, 4), (1, 2), (2, 1)):  # as on machines with other numbers of CPUs
        options = small("gpu", batch_B=4, n_workers=n_workers, rank=rank, n_ranks=3).options
        for share in assign(4, 0, n_workers)[0].shares:
            work = SimpleNamespace(options=options, share=share, probed=SimpleNamespace(spaces=Spaces(None, None)))
            OwnPaceActing(work, SimpleNamespace(progress=[None] * 4))
    assert len(drawn_by) == len(set(drawn_by)) == 2 * (4 + 2 + 1)  # for training and evaluation


def test_a_function_of_an_index_is_asked_for_those_of_its_rank():
    kwargs = {"env_kwargs": lambda b: {"longest": 3 + b}, "eval_env_kwargs": lambda b: {"longest": 9 + b}}
    options = small("serial", batch_B=4, eval_n_envs=2, eval_max_steps=9, rank=1, n_ranks=3, **kwargs).options
    assert [each["longest"] for each in options.payload.load("env_kwargs")] == [7, 8, 9, 10]
    assert [each["longest"] for each in options.payload.load("eval_env_kwargs")] == [11, 12]


@pytest.mark.slow  # starts two samplers of each kind
@pytest.mark.parametrize("kind", ["cpu", "gpu", "alternating", "dynamic"])
async def test_every_kind_of_sampler_can_be_a_part(kind, no_leaks):
    batches = []
    for part in (Part(1, 2), None):
        sampler = small(kind, batch_B=4 if part else 8, agent=NumberedAgent())
        if part:
            sampler.options = dataclasses.replace(sampler.options, part=part)
        async with sampler:
            batches.append((await sampler.obtain_samples()).clone())
    for name in ("reward", "observation"):
        assert torch.equal(getattr(batches[0].env, name), getattr(batches[1].env, name)[:, 4:])
    assert batches[0].agent.agent_info["rank"].unique().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"rank": 2, "n_ranks": 2}, "rank=2 must be below n_ranks=2"),
        ({"rank": 1}, "rank=1 must be below n_ranks=1"),
        ({"rank": -1, "n_ranks": 2}, "rank must be an integer of at least 0"),
        ({"n_ranks": 0}, "n_ranks must be an integer of at least 1"),
        ({"rank": 1.5, "n_ranks": 2}, "rank must be an integer"),
        ({"n_ranks": 2, "seed": None}, "n_ranks=2 needs a seed, the same in all ranks"),
    ],
)
def test_a_rank_that_is_none_is_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        small("serial", **arguments)


def test_ranks_that_share_a_seed_have_different_environments():
    assert small("serial", rank=1, n_ranks=4).options.part == Part(index=1, n=4)
    assert small("serial").options.part == Part()
