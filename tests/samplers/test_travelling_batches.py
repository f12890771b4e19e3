"""Batches that leave their slot: copies, batches on other devices, plain dicts, text."""

import asyncio
import dataclasses
import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.utils import _pytree as pytree

from aiosampler import AgentStep, SamplerClosed, Samples, TrajInfo
from aiosampler.specs.trees import tree_items, tree_map
from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess
from tests.support.samplers import EVERYWHERE, assert_same, leaves, small
from tests.support.worlds import CountingEnv, NestedEnv

pytestmark = [pytest.mark.usefixtures("same_generators"), pytest.mark.same_code]


class Named(NamedTuple):
    look: torch.Tensor
    nothing: None


class NamingAgent(LookingAgent):
    def step(self, inputs, state):
        step = super().step(inputs, state)
        info = {"named": Named(step.agent_info["look"], None), 3: step.agent_info["prev"]}
        return AgentStep(step.action, info, state)


class Words(TrajInfo):
    def terminate(self, observation):
        self.best = np.float32(self.Return)
        self.won = np.bool_(True)
        self.label, self.none, self.path = "a", None, [1, 2]
        return self


class OtherWords(Words):
    def terminate(self, observation):
        return {"Length": np.int16(self.Length), "trace": observation}


WORLDS = {
    "flat": (CountingEnv, LookingAgent),
    "nested": (NestedEnv, LookingAgent),
    "recurrent": (CountingEnv, AgeAgent),
    "named tuples": (CountingEnv, NamingAgent),
}


def gathered(world, **arguments):
    """A batch in which episodes have ended."""
    env, agent = WORLDS[world]
    sampler = InProcess(env, agent=agent(), batch_T=6, batch_B=3, seed=5, **arguments)
    return sampler, sampler.collect()


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal_trees(got, expected):
    assert [path for path, _ in tree_items(got)] == [path for path, _ in tree_items(expected)]
    tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True), got, expected)


@pytest.mark.parametrize("world", WORLDS)
def test_a_batch_as_a_dict_comes_back_from_a_file_that_is_loaded_without_trust(world):
    sampler, samples = gathered(world, env_info_keys=("doubled", "lengths"), bootstrap_value=True)
    loaded = saved_and_loaded(samples.as_dict())
    expected = {name: leaf for name, leaf in leaves(samples) if "final_observation" not in name}
    found = {f"{part}.{name}": tree for part in ("agent", "env") for name, tree in loaded[part].items()}
    assert torch.equal(loaded["valid"], samples.valid)
    assert_equal_trees(found["env.observation"], samples.env.observation)
    assert_equal_trees(found["env.next_observation"], samples.env.next_observation())
    final, ended = loaded["env"]["final_observation"], samples.env.final_observation
    assert len(ended) > 0
    assert torch.equal(final["t"], ended.t)
    assert torch.equal(final["b"], ended.b)
    assert_equal_trees(final["observation"], ended.observation)
    assert (loaded["itr"], loaded["policy_version"]) == (samples.itr, samples.policy_version)
    assert [info["Return"] for info in loaded["traj_infos"]] == [info.Return for info in samples.traj_infos]
    count = sum(1 for tree in found.values() for _ in tree_items(tree)) + 1
    assert count >= len(expected)
    sampler.close()


@pytest.mark.parametrize("world", WORLDS)
def test_a_batch_and_its_parts_are_pytrees(world):
    sampler, samples = gathered(world, env_info_keys=("doubled",), bootstrap_value=True)
    for part in (samples, samples.agent, samples.env, samples.env.final_observation, samples.agent.final_value):
        found, spec = pytree.tree_flatten(part)
        assert all(isinstance(leaf, torch.Tensor) for leaf in found)
        assert type(pytree.tree_unflatten(found, spec)) is type(part)
        assert [leaf.data_ptr() for _, leaf in pytree.tree_flatten_with_path(part)[0]] == [x.data_ptr() for x in found]
    found, spec = pytree.tree_flatten(samples)
    assert_same(pytree.tree_unflatten(found, spec), samples)
    assert [leaf.shape for leaf in found] == [leaf.shape for _, leaf in leaves(samples)]
    doubled = pytree.tree_map(lambda leaf: torch.cat((leaf, leaf)), {"batch": samples})["batch"]
    assert_same(doubled, samples.map(lambda leaf: torch.cat((leaf, leaf))))
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(samples)[0]]
    assert {".env.reward", ".env.final_observation.t", ".agent.final_value.value", ".valid"} <= set(paths)
    sampler.collect()
    again = sampler.collect()
    assert pytree.tree_structure(again) == pytree.tree_structure(doubled)
    both = pytree.tree_map(lambda one, other: torch.cat((one, other)), doubled, again)
    assert torch.equal(both.env.reward[12:], again.env.reward)
    sampler.close()


def test_every_field_of_a_batch_is_in_its_dict():
    sampler, samples = gathered("flat")
    plain = samples.as_dict()
    for part in ("agent", "env"):
        assert {each.name for each in dataclasses.fields(getattr(samples, part))} <= set(plain[part])
    assert plain["agent"]["bootstrap_value"] is None
    assert plain["agent"]["initial_state"] is None
    sampler.close()


def test_named_tuples_and_keys_become_plain():
    sampler, samples = gathered("named tuples")
    info = saved_and_loaded(samples.as_dict())["agent"]["agent_info"]
    assert torch.equal(info["named"]["look"], samples.agent.agent_info["named"].look)
    assert info["named"]["nothing"] is None
    assert torch.equal(info[3][0], samples.agent.agent_info[3][0])
    sampler.close()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Words, {"Length": 1, "best": 1.0, "won": True, "label": "a", "none": None}),
        (OtherWords, {"Length": 1}),
    ],
)
def test_infos_are_dicts_of_what_is_plain(kind, expected):
    env = lambda: CountingEnv(longest=1)  # noqa: E731 - all episodes have one step
    sampler = InProcess(env, agent=LookingAgent(), batch_T=2, batch_B=1, seed=5, traj_info_cls=kind)
    info = saved_and_loaded(sampler.collect().as_dict())["traj_infos"][0]
    assert {name: info[name] for name in expected} == {**expected, **({"best": info["best"]} if "best" in info else {})}
    assert not {"path", "trace", "_discount"} & set(info)
    assert all(type(value) in (int, float, bool, str, type(None)) for value in info.values())
    sampler.close()


@pytest.mark.parametrize("world", WORLDS)
def test_a_function_is_applied_to_each_tensor(world):
    sampler, samples = gathered(world, env_info_keys=("doubled",), bootstrap_value=True)
    seen = []

    def note(tensor):
        seen.append(tensor)
        return tensor.double() + 1

    mapped = samples.map(note)
    assert isinstance(mapped, Samples)
    pairs = list(zip(leaves(mapped), leaves(samples), strict=True))
    assert len(seen) == len(pairs)
    for (name, got), (_, leaf) in pairs:
        assert torch.equal(got, leaf.double() + 1), name
    assert mapped.traj_infos == samples.traj_infos
    assert mapped.traj_infos is not samples.traj_infos
    assert (mapped.itr, mapped.policy_version, mapped.stats) == (samples.itr, samples.policy_version, samples.stats)
    sampler.close()


def test_a_batch_is_on_its_device_already_or_is_moved_there():
    sampler, samples = gathered("nested")
    assert samples.to("cpu") is samples
    moved = samples.to("meta")
    assert {leaf.device.type for _, leaf in leaves(moved)} == {"meta"}
    assert moved.env.reward.shape == samples.env.reward.shape
    sampler.close()


class Wide(CountingEnv):
    """Observes numbers of a dtype that torch does not index."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 60_000, (2,), np.uint16)

    def _observe(self):
        return np.array([60_000 - self._step, self._episode], np.uint16)


class WideAgent(LookingAgent):
    def _look(self, inputs):
        return inputs.observation.to(torch.float64).sum(-1)


def test_what_follows_each_step_in_a_dtype_that_torch_does_not_index():
    sampler = InProcess(Wide, agent=WideAgent(), batch_T=6, batch_B=2, seed=5)
    samples = sampler.collect()
    following = samples.env.next_observation()
    assert following.dtype == torch.uint16
    rows = following.numpy()
    for t in range(6):
        for b in range(2):
            after = samples.env.observation.numpy()[t + 1] if t < 5 else samples.env.last_observation.numpy()
            expected = samples.env.final_observation[t, b].numpy() if samples.env.done[t, b] else after[b]
            assert rows[t, b].tolist() == expected.tolist()
    loaded = saved_and_loaded(samples.as_dict())
    assert loaded["env"]["next_observation"].numpy().tolist() == rows.tolist()
    sampler.close()


def test_batches_are_shown_by_their_shapes():
    sampler, samples = gathered("nested", bootstrap_value=True)
    text = repr(samples)
    assert "reward=float32[6, 3]" in text
    assert "'image': uint8[6, 3, 2, 2]" in text
    assert "(int64[6, 3, 3], int8[6, 3, 2])" in text
    assert "initial_state=None" in text
    assert "itr=0" in text
    assert "tensor(" not in text
    kept = samples.clone()
    assert f"'t': int64[{len(kept.env.final_observation)}]" in repr(kept)
    assert repr(kept.agent) in repr(kept)
    sampler.collect()
    sampler.collect()
    repr(samples)  # also when it was given back
    sampler.close()


# By a sampler


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_batches_that_are_copies_stay_as_they_are(kind):
    async with small(kind) as sampler, small("in-process") as other:
        kept = [await sampler.obtain_samples(copy=True) for _ in range(5)]
        for samples in kept:
            assert_same(samples, await other.obtain_samples())
        assert [samples.itr for samples in kept] == [0, 1, 2, 3, 4]
        assert sampler.statistics().batches == 5


@pytest.mark.usefixtures("no_leaks")
async def test_a_caller_who_leaves_while_a_batch_is_copied_loses_nothing(monkeypatch):
    copying = asyncio.Event()

    async def endless(function):
        copying.set()
        await asyncio.Event().wait()

    async with small("serial") as sampler, small("in-process") as other:
        with monkeypatch.context() as patch:
            patch.setattr("aiosampler.samplers.base.beside_loop", endless)
            task = asyncio.create_task(sampler.obtain_samples(copy=True))
            await copying.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(3):
            assert_same(await sampler.obtain_samples(copy=True), await other.obtain_samples())
        assert sampler.statistics().batches == 3


@pytest.mark.usefixtures("no_leaks")
async def test_calls_for_copies_and_views_wait_for_each_other():
    async with small("cpu") as sampler, small("in-process") as other:
        calls = (sampler.obtain_samples(copy=True) for _ in range(4))
        for samples in await asyncio.gather(*calls):
            assert_same(samples, await other.obtain_samples())
    with pytest.raises(SamplerClosed):
        await sampler.obtain_samples(copy=True)


async def test_an_info_may_be_none_beside_others():
    class Partly(LookingAgent):
        def step(self, inputs, state):
            return super().step(inputs, state)._replace(agent_info={"value": None, "look": inputs.prev_reward})

    async with small("in-process", agent=Partly()) as sampler:
        samples = await sampler.obtain_samples()
    assert samples.agent.agent_info["value"] is None
    assert torch.equal(samples.agent.agent_info["look"], samples.env.prev_reward)
