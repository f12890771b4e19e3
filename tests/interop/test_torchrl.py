"""Batches in TorchRL's layout, beside what TorchRL itself collects and computes."""

import dataclasses
import importlib.util
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from aiosampler import AsyncSerialSampler, CategoricalPgAgent, ConfigError
from tests.support.agents import LookingAgent
from tests.support.models import LinearActorCritic
from tests.support.worlds import CountingEnv, NestedEnv

pytest.importorskip("torchrl", reason="the extra torchrl is not installed")
interop = pytest.importorskip("aiosampler.interop.torchrl")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def example(name):
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cartpole():
    return gym.make("CartPole-v1", max_episode_steps=12)  # some episodes terminate before, others do not


def batch(env_fn=cartpole, agent=None, **arguments):
    """A copy of the second batch, which begins within episodes."""
    arguments = {"batch_T": 40, "batch_B": 3, "seed": 3, "bootstrap_value": True, **arguments}
    agent = agent or CategoricalPgAgent(LinearActorCritic)
    with AsyncSerialSampler(env_fn, agent=agent, in_process=True, **arguments).sync() as sampler:
        sampler.obtain_samples()
        return sampler.obtain_samples(copy=True)


@pytest.fixture(scope="module")
def samples():
    torch.manual_seed(1)
    samples = batch()
    assert samples.env.truncated.any()
    assert samples.env.terminated.any()
    return samples


def test_keys_shapes_and_dtypes_are_those_of_torchrl(samples):
    from torchrl.envs import GymEnv

    theirs = GymEnv("CartPole-v1", categorical_action_encoding=True).rollout(3)
    ours = interop.to_tensordict(samples)
    for key in theirs.keys(include_nested=True, leaves_only=True):
        assert (ours[key].shape[2:], ours[key].dtype) == (theirs[key].shape[1:], theirs[key].dtype), key
    assert ours.batch_size == (3, 40)
    assert ours.names == [None, *theirs.names]


def test_what_follows_a_step_is_the_final_observation_where_an_episode_ended(samples):
    ours = interop.to_tensordict(samples)
    following, final = ours["next", "observation"], samples.env.final_observation
    assert len(final) > 3
    for t, b, observation in zip(final.t, final.b, final.observation, strict=True):
        assert torch.equal(following[b, t], observation)
    goes_on = ~ours["next", "done"].squeeze(-1)[:, :-1]
    assert torch.equal(following[:, :-1][goes_on], ours["observation"][:, 1:][goes_on])
    assert torch.equal(ours["is_init"].squeeze(-1).T, samples.env.first)
    assert torch.equal(ours["next", "reward"].squeeze(-1).T, samples.env.reward)
    assert ours["observation"].data_ptr() == samples.env.observation.data_ptr()  # a view


def test_a_replay_buffer_gives_back_the_steps(samples):
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=64)
    buffer.extend(interop.to_tensordict(samples).reshape(-1))
    assert len(buffer) == 120
    steps = {tuple(row.tolist()) for row in samples.env.observation.flatten(0, 1)}
    drawn = buffer.sample()
    assert {tuple(row.tolist()) for row in drawn["observation"]} <= steps
    assert drawn["next", "observation"].shape == (64, 4)


def test_its_advantages_are_those_of_the_ppo_example(samples):
    from torchrl.objectives.value import GAE

    ppo = example("train_ppo")
    args = ppo.Args()
    estimate = GAE(gamma=args.discount, lmbda=args.gae_lambda, value_network=None)(interop.to_tensordict(samples))
    torch.testing.assert_close(estimate["advantage"].squeeze(-1).T, ppo.advantages(samples, args))


def test_its_v_trace_is_that_of_the_impala_example(samples):
    # The module around this function, `VTrace`, asks for the probability of an action that it draws anew (0.14.1).
    from tensordict.nn import TensorDictModule
    from torchrl.objectives.value.functional import vtrace_advantage_estimate

    newer = LinearActorCritic(gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2))  # is not what chose the actions
    env, action = samples.env, samples.agent.action
    with torch.no_grad():
        logits, value = newer(env.observation)
        following = newer(env.next_observation())[1] * ~env.terminated
        log_prob = logits.log_softmax(-1).gather(-1, action[..., None]).squeeze(-1)
    rho = (log_prob - samples.agent.agent_info["log_prob"]).exp().clamp(max=1)
    target, advantage = example("train_impala").v_trace(rho, env.reward, value, following, samples, 0.97)

    ours = interop.to_tensordict(samples)
    critic = TensorDictModule(newer.critic, ["observation"], ["state_value"])
    critic(ours)
    critic(ours["next"])
    theirs = vtrace_advantage_estimate(
        0.97,
        log_prob.T[..., None],
        ours["action_log_prob"][..., None],
        ours["state_value"],
        ours["next", "state_value"],
        *(ours["next", name] for name in ("reward", "done", "terminated")),
    )
    for one, other in zip(theirs, (advantage, target), strict=True):
        torch.testing.assert_close(one.squeeze(-1).T, other)


def test_blanks_are_masked():
    ours = interop.to_tensordict(batch(mid_batch_reset=False))
    mask = ours["collector", "mask"]
    assert not mask.all()
    assert (ours["observation"][~mask] == 0).all()


def test_nested_spaces_and_infos_have_keys_of_their_own():
    samples = batch(NestedEnv, LookingAgent(), bootstrap_value=False)
    ours = interop.to_tensordict(samples)
    leaves = set(ours["next"].keys(include_nested=True, leaves_only=True))
    for name in samples.env.observation:
        assert name in ours
        assert name in ours["next"]
    assert all(ours["next", key].shape[:2] == (3, 40) for key in leaves)
    samples = batch(CountingEnv, LookingAgent(), env_info_keys=("doubled",), bootstrap_value=False)
    ours = interop.to_tensordict(samples)
    assert torch.equal(ours["next", "env_info", "doubled"].T, samples.env.env_info["doubled"])
    assert torch.equal(ours["env_info", "doubled"].T, samples.env.prev_env_info["doubled"])
    clash = dataclasses.replace(samples.env, observation={"action": samples.env.reward})
    with pytest.raises(ConfigError, match=r"the keys \['action'\], under which TorchRL"):
        interop.to_tensordict(dataclasses.replace(samples, env=clash))
    assert ("next", "state_value") not in ours.keys(include_nested=True)
