"""Batches of parts, joined, are the batch of the whole; also when they have travelled."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from aiosampler import EpisodeAssembler, environment_seed
from aiosampler.agents.parameters import parameter_specs
from aiosampler.agents.sources import SourceMatcher
from aiosampler.specs.part import Part
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import assert_same
from tests.support.worlds import CountingEnv, NestedEnv

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.ray.joining import joined
from aiosampler.ray.ray_statistics import RaySampleStats
from aiosampler.ray.travel import Lent, as_bytes, from_bytes, packed, unpacked


def travelled(samples, k, kind):
    """A batch as it arrives from actor k."""
    reply = packed(samples, kind, (), Lent(lambda: None))
    buffers = []
    data = pickle.dumps(reply, protocol=5, buffer_callback=buffers.append)
    reply = pickle.loads(data, buffers=[memoryview(bytes(buffer.raw())) for buffer in buffers])  # read-only, as Ray's
    arrived = unpacked(reply, kind)
    return dataclasses.replace(arrived, stats=RaySampleStats.of(arrived.stats, k, f"node-{k}"))


@pytest.mark.parametrize(
    ("env_fn", "agent"), [(CountingEnv, AgeAgent), (NestedEnv, LookingAgent)], ids=["recurrent", "nested"]
)
@pytest.mark.parametrize("mid_batch_reset", [True, False], ids=["reset", "wait-reset"])
def test_joined_batches_are_those_of_one_sampler(env_fn, agent, mid_batch_reset):
    arguments = {"agent": agent(), "batch_T": 6, "seed": 3, "bootstrap_value": True, "env_info_keys": ("doubled",)}
    arguments["mid_batch_reset"] = mid_batch_reset
    whole = InProcess(env_fn, batch_B=6, **arguments)
    parts = [InProcess(env_fn, Part(k, 3), batch_B=2, **arguments) for k in range(3)]
    for _ in range(3):
        kind = whole.options.payload.live["traj_info_cls"]
        batch = joined([travelled(part.collect(), k, kind) for k, part in enumerate(parts)])
        assert_same(batch, whole.collect())
        assert batch.stats.actors == (0, 1, 2)
        assert batch.stats.nodes == ("node-0", "node-1", "node-2")
        assert batch.stats.env_steps == int(batch.valid.sum())
    for one in (whole, *parts):
        one.close()


def two_actors(**arguments):
    """Samplers of two actors with the environments of one sampler, and what makes the batches of each arrive."""
    arguments = {"agent": AgeAgent(), "batch_T": 3, "batch_B": 2, "seed": 3, "bootstrap_value": True, **arguments}
    parts = [InProcess(CountingEnv, Part(k, 2), **arguments) for k in range(2)]
    return parts, lambda k: travelled(parts[k].collect(), k, parts[k].options.payload.live["traj_info_cls"])


def test_versions_of_each_step_are_joined():
    parts, arrive = two_actors()
    batches = []
    for k in range(2):
        batch = arrive(k)
        versions = torch.full(batch.valid.shape, 5 + k)
        batches.append(dataclasses.replace(batch, agent=dataclasses.replace(batch.agent, policy_version=versions)))
    batch = joined(batches)
    assert batch.agent.policy_version.tolist() == [[5, 5, 6, 6]] * 3
    assert batch.policy_versions == (5, 6)
    for one in parts:
        one.close()


def test_episodes_are_assembled_of_the_batches_of_their_actor():
    parts, arrive = two_actors()
    assembler, found = EpisodeAssembler(), []
    for k in (0, 1, 0, 0, 1, 1, 1, 0, 0, 1):
        found += assembler.add(arrive(k))
    assert all(episode.whole for episode in found)
    assert {episode.b for episode in found} == {0, 1, 2, 3}
    for episode in found:
        (seed,), (number,), steps = map(torch.unique, episode.observation.T)
        assert (int(seed), steps.tolist()) == (environment_seed(3, episode.b), list(range(len(episode))))
        assert episode.final_observation.tolist() == [seed, number, len(episode)]
    for one in parts:
        one.close()


def test_a_batch_that_has_travelled_may_be_written_to():
    part = InProcess(CountingEnv, agent=LookingAgent(), batch_T=3, batch_B=2, seed=1)
    samples = travelled(part.collect(), 0, part.options.payload.live["traj_info_cls"])
    samples.env.reward.fill_(7)
    assert samples.env.reward.unique().tolist() == [7]
    part.close()


def test_parameters_of_any_dtype_travel_as_bytes():
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(3, 2).to(torch.bfloat16).T)  # not contiguous, and nothing that NumPy has
    model.register_buffer("count", torch.tensor(7))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    specs = parameter_specs(model)
    sources = SourceMatcher(specs).match(model.state_dict())
    tensors = from_bytes(as_bytes(sources), specs)
    for source, tensor in zip(sources, tensors, strict=True):
        assert (source is None) == (tensor is None)
        assert source is None or (torch.equal(source, tensor) and source.dtype is tensor.dtype)
    assert [tensor is None for tensor in tensors].count(True) == 1  # what a state_dict does not have
