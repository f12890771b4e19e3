"""Stable-Baselines3 policies as agents, and batches for its algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aiosampler.agents.agent import Agent, AgentInputs, AgentStep
from aiosampler.errors import ConfigError, SamplerError
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.policies import ActorCriticPolicy

    from aiosampler.samplers.samples import Samples
    from aiosampler.specs.arrays import Spaces


class Sb3Agent(Agent):
    """An agent around an actor-critic policy, such as ``PPO("MlpPolicy", env, device="cpu").policy``.

    Evaluation takes the most likely action. `agent_info` holds ``log_prob [B]`` of the action, ``value [B]`` and the
    ``sample [B, ...]``: the action as it was drawn, before it was clamped to the bounds of a Box space.

    Args:
        policy: The policy, which is copied to the sampler's processes; its parameters are published.

    Raises:
        ConfigError: The policy has state-dependent noise (`use_sde`), is on a GPU, or was made for other spaces.
        TypeError: It is no actor-critic policy.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        if not hasattr(policy, "predict_values"):
            raise TypeError(
                "policy must be an actor-critic policy of Stable-Baselines3, such as that of a PPO or A2C, "
                f"`algorithm.policy`; got {type(policy).__name__}"
            )
        if getattr(policy, "use_sde", False):
            raise ConfigError("the policy has noise that depends on the state, which Sb3Agent has not; use_sde=False")
        if policy.device.type != "cpu":
            raise ConfigError(
                f"the policy is on {policy.device}, from which it cannot be copied to other processes: give Sb3Agent "
                "copy.deepcopy(policy).to('cpu'), and publish(policy) after each update"
            )
        self.model = policy

    def initialize(self, spaces: Spaces) -> None:
        """Compare the spaces with those of the policy."""
        policy: Any = self.model
        for what in ("observation", "action"):
            given, expected = getattr(spaces, what), getattr(policy, f"{what}_space")
            if given != expected:
                raise ConfigError(
                    f"the policy was made for the {what} space {expected}, the environment has {given}; "
                    "make both from the same environment, images with channels first"
                )
        space: Any = spaces.action
        self._bounds = (torch.as_tensor(space.low), torch.as_tensor(space.high)) if hasattr(space, "low") else None

    def step(self, inputs: AgentInputs, state: Tree) -> AgentStep:
        """Draw an action for each environment."""
        policy: Any = self.model
        sample, value, log_prob = policy(inputs.observation, deterministic=self.mode == "eval")
        action = sample
        if self._bounds is not None:
            low, high = (bound.to(sample.device) for bound in self._bounds)
            action = torch.clamp(sample, low, high)
        return AgentStep(action, {"log_prob": log_prob, "value": value.flatten(), "sample": sample})

    def value(self, inputs: AgentInputs, state: Tree) -> torch.Tensor:
        """The critic's values ``[B]``."""
        policy: Any = self.model
        values: torch.Tensor = policy.predict_values(inputs.observation)
        return values.flatten()


def fill_rollout_buffer(algorithm: OnPolicyAlgorithm, samples: Samples) -> None:
    """Fill ``algorithm.rollout_buffer`` with a batch, advantages and returns, for ``algorithm.train()``.

    If the size of the buffer is not ``[T, B]``, a new one is made, and T and B become the algorithm's ``n_steps`` and
    ``n_envs``. Where an episode was truncated, the value of its final observation is added to the reward, as in SB3.

    Args:
        algorithm: `PPO` or `A2C`.
        samples: A batch of an `Sb3Agent`, collected with ``bootstrap_value=True``. It is copied.

    Raises:
        ConfigError: The batch has no bootstrap values, or is that of another agent.
        SamplerError: Some steps are not `valid`, which SB3 cannot represent.
    """
    agent, env = samples.agent, samples.env
    if agent.bootstrap_value is None or agent.final_value is None:
        raise ConfigError("the batch has no values of what follows it; give the sampler bootstrap_value=True")
    if not bool(samples.valid.all()):
        raise SamplerError("the batch has steps that are not valid, as samples.valid says; leave it out")
    T, B = samples.valid.shape
    buffer = algorithm.rollout_buffer
    if (buffer.buffer_size, buffer.n_envs) != (T, B):
        algorithm.n_steps, algorithm.n_envs = T, B
        buffer = algorithm.rollout_buffer = type(buffer)(
            T,
            algorithm.observation_space,
            algorithm.action_space,
            device=algorithm.device,
            gae_lambda=algorithm.gae_lambda,
            gamma=algorithm.gamma,
            n_envs=B,
        )
    buffer.reset()
    info: Any = agent.agent_info
    if not isinstance(info, dict) or "sample" not in info:
        raise ConfigError("the batch has no samples of actions: it must be one of a sampler with an Sb3Agent")
    reward = env.reward + algorithm.gamma * agent.final_value.dense() * (env.truncated & ~env.terminated)
    begins = torch.cat((env.first[:1], env.done[:-1]))
    for t in range(T):
        buffer.add(
            tree_map(lambda leaf, t=t: leaf[t].numpy(), env.observation),
            info["sample"][t].numpy(),
            reward[t].numpy(),
            begins[t].numpy(),
            info["value"][t],
            info["log_prob"][t],
        )
    buffer.compute_returns_and_advantage(agent.bootstrap_value, env.done[-1].numpy())
    algorithm.num_timesteps += samples.stats.env_steps
