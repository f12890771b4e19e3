"""Policies of Stable-Baselines3 act, and its own update trains them."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch

from aiosampler import AgentInputs, AsyncSerialSampler, CategoricalPgAgent, ConfigError, SamplerError, Spaces
from aiosampler.interop.sb3 import Sb3Agent, fill_rollout_buffer
from tests.support.models import LinearActorCritic

sb3 = pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")
logger = pytest.importorskip("stable_baselines3.common.logger")
cartpole = functools.partial(gym.make, "CartPole-v1", max_episode_steps=12)
pendulum = functools.partial(gym.make, "Pendulum-v1", max_episode_steps=12)


def ppo(env_fn, T=32, policy="MlpPolicy", **arguments):
    algorithm = sb3.PPO(policy, env_fn(), n_steps=T, batch_size=T, n_epochs=2, seed=0, device="cpu", **arguments)
    algorithm.set_logger(logger.Logger(None, []))
    return algorithm


def batch(agent, **arguments):
    arguments = {"batch_T": 32, "batch_B": 2, "seed": 1, **arguments}
    with AsyncSerialSampler(cartpole, agent=agent, in_process=True, **arguments).sync() as sampler:
        return sampler.obtain_samples(copy=True)


@pytest.mark.parametrize("env_fn", [cartpole, pendulum], ids=["discrete", "continuous"])
def test_its_update_trains_the_policy_that_acts(env_fn):
    algorithm = ppo(env_fn)
    agent = Sb3Agent(algorithm.policy)
    sampler = AsyncSerialSampler(
        env_fn, agent=agent, batch_T=32, batch_B=4, seed=1, bootstrap_value=True, overlap=False, in_process=True
    )
    before = {name: tensor.clone() for name, tensor in algorithm.policy.state_dict().items()}
    with sampler.sync() as sampler:
        for samples in sampler:
            fill_rollout_buffer(algorithm, samples)
            # What was recorded is what the policy says of it: at the first minibatch, no ratio would differ from 1.
            value, log_prob, _ = algorithm.policy.evaluate_actions(
                samples.env.observation.flatten(0, 1), samples.agent.agent_info["sample"].flatten(0, 1)
            )
            torch.testing.assert_close(log_prob, samples.agent.agent_info["log_prob"].flatten())
            torch.testing.assert_close(value.flatten(), samples.agent.agent_info["value"].flatten())
            algorithm.train()
            assert sampler.publish() == samples.itr + 1
            if samples.itr == 2:
                break
    assert samples.policy_version == 2
    assert algorithm.num_timesteps == 3 * 32 * 4
    assert any(not torch.equal(tensor, before[name]) for name, tensor in algorithm.policy.state_dict().items())


def test_the_buffer_is_what_stable_baselines_would_have_filled_it_with():
    """Its own collecting goes through the actions of the batch, in environments that are seeded alike."""
    algorithm = ppo(cartpole)
    samples = batch(Sb3Agent(algorithm.policy), batch_B=1, bootstrap_value=True)
    fill_rollout_buffer(algorithm, samples)
    ours = algorithm.rollout_buffer

    theirs = ppo(cartpole)
    theirs.policy.load_state_dict(algorithm.policy.state_dict())
    starts = [samples.env.observation[0, 0], *samples.env.observation[1:, 0][samples.env.done[:-1, 0]]]
    env, actions = Replayed([start.numpy() for start in starts]), iter(samples.agent.action[:, 0])
    forward = theirs.policy.evaluate_actions

    def replay(observation, deterministic=False):
        action = next(actions)[None]
        value, log_prob, _ = forward(observation, action)
        return action, value, log_prob

    theirs.policy.forward = replay
    theirs.env = theirs.get_env().__class__([lambda: gym.wrappers.TimeLimit(env, 12)])
    _, callback = theirs._setup_learn(32, None)
    theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, 32)
    assert samples.env.truncated.any()
    names = "observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"
    for name in names:
        other = getattr(theirs.rollout_buffer, name)
        np.testing.assert_allclose(getattr(ours, name), other, rtol=1e-4, atol=1e-5, err_msg=name)


class Replayed(gym.Wrapper):
    """CartPole, whose episodes begin with given states."""

    def __init__(self, starts):
        super().__init__(gym.make("CartPole-v1").unwrapped)
        self.starts = iter(starts)

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.unwrapped.state = next(self.starts, observation).astype(np.float64)
        return np.array(self.unwrapped.state, np.float32), info


def test_evaluation_takes_the_most_likely_action():
    algorithm = ppo(cartpole)
    agent = Sb3Agent(algorithm.policy)
    agent.initialize(Spaces(cartpole().observation_space, cartpole().action_space))
    agent.eval_mode(0)
    inputs = AgentInputs(torch.randn(64, 4), None, torch.zeros(64))
    logits = algorithm.policy.get_distribution(inputs.observation).distribution.logits
    assert torch.equal(agent.step(inputs, None).action, logits.argmax(-1))


def test_what_does_not_fit_is_refused():
    algorithm = ppo(cartpole)
    agent = Sb3Agent(algorithm.policy)
    with pytest.raises(ConfigError, match=r"made for the observation space .*, the environment has"):
        agent.initialize(Spaces(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)))
    with pytest.raises(ConfigError, match=r"the policy is on meta, .*copy\.deepcopy"):
        Sb3Agent(ppo(cartpole).policy.to("meta"))
    with pytest.raises(ConfigError, match="use_sde=False"):
        Sb3Agent(ppo(pendulum, use_sde=True).policy)
    for arguments, error, match in [
        ({}, ConfigError, "bootstrap_value=True"),
        ({"bootstrap_value": True, "mid_batch_reset": False}, SamplerError, "not valid"),
    ]:
        with pytest.raises(error, match=match):
            fill_rollout_buffer(algorithm, batch(agent, **arguments))


def test_what_is_no_actor_critic_policy_is_refused():
    for given in (ppo(cartpole), "MlpPolicy", None):
        with pytest.raises(TypeError, match=r"policy must be an actor-critic policy .*, `algorithm\.policy`; got"):
            Sb3Agent(given)


def test_a_batch_of_another_agent_is_refused():
    samples = batch(CategoricalPgAgent(LinearActorCritic), bootstrap_value=True)
    with pytest.raises(ConfigError, match="must be one of a sampler with an Sb3Agent"):
        fill_rollout_buffer(ppo(cartpole), samples)
