"""Agents that tell what they were shown."""

import gymnasium as gym
import torch

from aiosampler import Agent, AgentStep


class LookingAgent(Agent):
    """Chooses by its inputs alone, and tells in `agent_info` what it saw."""

    def initialize(self, spaces):
        self.nested = isinstance(spaces.action, gym.spaces.Dict)
        self.box = isinstance(spaces.action, gym.spaces.Box)

    def _look(self, inputs):
        observation = inputs.observation["pose"][0] if self.nested else inputs.observation
        previous = (
            inputs.prev_action["arm"][:, 0] if self.nested else inputs.prev_action.reshape(len(observation), -1)[:, 0]
        )
        return observation.double().sum(-1) + previous.double() + inputs.prev_reward.double()

    def step(self, inputs, state):
        look = self._look(inputs)
        number = (look * 1000).long()
        info = {"look": look, "prev": (inputs.prev_reward.clone(),)}
        if self.nested:
            action = {
                "arm": torch.stack([look.sin(), look.cos()], -1).float(),
                "gear": number % 3,
                "grip": torch.stack([number % 2, number % 3], -1),
            }
        elif self.box:
            action = look.sin().float()[:, None]
        else:
            action = number % 5
        return AgentStep(action, info, state)

    def value(self, inputs, state):
        return self._look(inputs).float()


class AgeAgent(LookingAgent):
    """Recurrent: its state is the number of steps of the episode that it has seen, and what it remembers."""

    recurrent = True

    def initial_state(self, batch_size):
        return {
            "age": torch.zeros(batch_size),
            "memory": (torch.full((batch_size, 2), 0.5, dtype=torch.float64),),
        }

    def step(self, inputs, state):
        step = super().step(inputs, state)
        memory = (state["memory"][0] + step.agent_info["look"][:, None]).cos()
        info = {**step.agent_info, "age": state["age"].clone(), "memory": memory[:, 0].clone()}
        return AgentStep(step.action, info, {"age": state["age"] + 1, "memory": (memory,)})

    def value(self, inputs, state):
        look = self._look(inputs) % 1000  # seeds are large: in float32, what is added to them would be lost
        return look.float() + state["age"] + state["memory"][0].sum(-1).float()


class NoisyAgent(LookingAgent):
    """Stochastic: draws from torch's global generator."""

    def step(self, inputs, state):
        step = super().step(inputs, state)
        return step._replace(action=torch.randint_like(step.action, 5))
