"""What learns from the batches: PPO with a clipped objective, which bears that a batch is a policy or two behind."""

from typing import Any

import torch
from torch import nn

from aiosampler import Samples

DISCOUNT, LAMBDA, CLIP, EPOCHS, MINIBATCH = 0.98, 0.9, 0.2, 4, 256


class ActorCritic(nn.Module):
    """Logits ``[..., A]`` and values ``[...]`` of observations ``[..., n]``."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        n = observation_space.shape[0]
        self.policy = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, int(action_space.n)))
        self.critic = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(observation), self.critic(observation).squeeze(-1)


def advantages(samples: Samples) -> torch.Tensor:
    """Generalised advantage estimates ``[T, B]`` (Schulman et al. 2016)."""
    agent, env = samples.agent, samples.env
    assert agent.bootstrap_value is not None
    assert agent.final_value is not None
    value = agent.agent_info["value"]
    following = torch.cat((value[1:], agent.bootstrap_value[None]))
    following = torch.where(env.done, agent.final_value.dense() * ~env.terminated, following)
    delta = env.reward + DISCOUNT * following - value
    advantage, ahead = torch.empty_like(delta), torch.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        advantage[t] = ahead = delta[t] + DISCOUNT * LAMBDA * ~env.done[t] * ahead
    return advantage


def whole(samples: Samples) -> torch.Tensor:
    """Which steps ``[T, B]`` to learn from: those of which nothing was lost with a worker until their episode's end."""
    known, ahead = samples.valid.clone(), torch.ones_like(samples.valid[0])
    for t in reversed(range(len(known))):
        known[t] = ahead = known[t] & (samples.env.done[t] | ahead)
    return known


class Learner:
    """A model and its optimiser; `learn` runs in a thread, while the event loop goes on."""

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.model = model
        self.learning_rate = learning_rate  # may be changed between two batches
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Model and optimiser, to go on with."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another learner was, whose model had the same shapes."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def learn(self, samples: Samples) -> float:
        """Learn from a batch; return the last loss."""
        info, advantage = samples.agent.agent_info, advantages(samples)
        batch = samples.env.observation, samples.agent.action, info["log_prob"], advantage, advantage + info["value"]
        flat = [leaf[whole(samples)] for leaf in batch]  # [N, ...]
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        loss = torch.zeros(())
        for _ in range(EPOCHS):
            order = torch.randperm(len(flat[1]))
            for begin in range(0, len(order), MINIBATCH):
                loss = self._loss(*(leaf[order[begin : begin + MINIBATCH]] for leaf in flat))
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
                self.optimizer.step()
        return float(loss.detach())

    def _loss(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        old_log_prob: torch.Tensor,
        advantage: torch.Tensor,
        goal: torch.Tensor,
    ) -> torch.Tensor:
        logits, value = self.model(observation)
        ratio = (torch.log_softmax(logits, -1).gather(-1, action[:, None]).squeeze(-1) - old_log_prob).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
        return policy_loss + 0.5 * nn.functional.mse_loss(value, goal)
