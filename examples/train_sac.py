"""Soft actor-critic, with an agent of its own: it collects while this process trains from a replay buffer.

Ctrl-C ends the training early: what was learned is evaluated, and the learning curve drawn, all the same.
"""

import argparse
import asyncio
import copy
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import Agent, AgentInputs, AgentStep, AsyncSerialSampler


@dataclass(frozen=True)
class Args:
    env: str = "Pendulum-v1"  # HalfCheetah-v5 learns with --goal 5000 --steps 300000 --discount 0.99
    seed: int = 0
    steps: int = 20_000  # environment steps at most; training ends before if the evaluation reaches `goal`
    goal: float = -160.0  # mean return
    output: str = "train_sac.png"  # the learning curve
    learning_rate: float = 1e-3
    discount: float = 0.98
    tau: float = 0.02  # how far the target critics move at each gradient step


def network(n: int, outputs: int) -> nn.Sequential:
    m = 64 if n < 10 else 256  # MuJoCo's worlds ask for more
    return nn.Sequential(nn.Linear(n, m), nn.ReLU(), nn.Linear(m, m), nn.ReLU(), nn.Linear(m, outputs))


class SacAgent(Agent):
    """Draws actions from a Gaussian that is squashed to their bounds, -c and c; evaluates with its middle."""

    def initialize(self, spaces: Any) -> None:
        self.spaces, self.bound = spaces, float(spaces.action.high[0])
        self.model = network(spaces.observation.shape[0], 2 * spaces.action.shape[0])

    def step(self, inputs: AgentInputs, state: Any) -> AgentStep:
        return AgentStep(self.act(inputs.observation, noisy=self.mode != "eval")[0])

    def act(self, observation: torch.Tensor, *, noisy: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions ``[B, A]`` and the logarithms of their probabilities ``[B]``."""
        model: Any = self.model
        mean, log_std = model(observation.float()).chunk(2, -1)  # MuJoCo has float64
        log_std, noise = log_std.clamp(-5, 2), torch.randn_like(mean) * noisy
        sample = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squashing = 2 * (math.log(2) - sample - nn.functional.softplus(-2 * sample)) + math.log(self.bound)
        return self.bound * sample.tanh(), (log_prob - squashing).sum(-1)


class Learner:  # critics, replay buffer and optimisers (Haarnoja et al. 2018)
    def __init__(self, agent: Any, args: Args) -> None:
        self.agent, self.args, self.added = agent, args, 0
        n, m = agent.spaces.observation.shape[0], agent.spaces.action.shape[0]
        self.critics = nn.ModuleList([network(n + m, 1) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros((), requires_grad=True)  # what entropy is worth
        parts = agent.model.parameters(), self.critics.parameters(), [self.log_alpha]
        self.optimizers = [torch.optim.Adam(part, lr=args.learning_rate) for part in parts]
        self.replay = [torch.zeros(args.steps, *size) for size in ((n,), (m,), (), (n,), ())]

    def add(self, *batch: torch.Tensor) -> None:  # [T, B, ...]
        rows = torch.arange(self.added, self.added + batch[0].shape[:2].numel()) % self.args.steps
        for column, values in zip(self.replay, batch, strict=True):
            column[rows] = values.flatten(0, 1).float()
        self.added += len(rows)

    def q(self, critics: nn.ModuleList, observation: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
        inputs = torch.cat((observation, action), -1)
        return [critic(inputs).squeeze(-1) for critic in critics]

    def learn(self) -> None:
        rows, args = torch.randint(min(self.added, self.args.steps), (256,)), self.args
        observation, action, reward, next_observation, terminated = (column[rows] for column in self.replay)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = self.agent.act(next_observation)
            worth = torch.min(*self.q(self.targets, next_observation, next_action)) - alpha * next_log_prob
            goal = reward + args.discount * (1 - terminated) * worth  # a truncated episode would have gone on
        self.step(1, sum(nn.functional.mse_loss(q, goal) for q in self.q(self.critics, observation, action)))
        new_action, log_prob = self.agent.act(observation)
        self.step(0, (alpha * log_prob - torch.min(*self.q(self.critics, observation, new_action))).mean())
        self.step(2, -(self.log_alpha * (log_prob.detach() - action.shape[-1])).mean())  # entropy: -1 for each
        with torch.no_grad():
            for slow, fast in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                slow.lerp_(fast, args.tau)

    def step(self, which: int, loss: Any) -> None:
        self.optimizers[which].zero_grad()
        torch.autograd.backward(loss)
        self.optimizers[which].step()


def draw_curve(args: Args, episodes: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> None:
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    axes.plot(*np.array(episodes).reshape(-1, 2).T, ".", alpha=0.3, label="training episodes")
    axes.plot(*np.array(evaluations).reshape(-1, 2).T, "o-", label="evaluation")
    axes.set(title=f"SAC on {args.env}", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(args.output)


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the networks are small, and the sampler needs a CPU too
    episodes: list[tuple[int, float]] = []  # environment steps so far, return
    evaluations: list[tuple[int, float]] = []  # environment steps so far, mean return
    agent, sizes = SacAgent(), dict[str, Any](batch_T=8, batch_B=8, eval_n_envs=10, eval_max_steps=100_000)
    async with AsyncSerialSampler(args.env, agent=agent, seed=args.seed, **sizes) as sampler:
        learner = Learner(agent, args)
        progress = tqdm(total=args.steps, unit=" steps")
        try:
            async for samples in sampler:  # the next batch is already being collected
                env = samples.env
                learner.add(env.observation, samples.agent.action, env.reward, env.next_observation(), env.terminated)
                episodes += [(learner.added, info.Return) for info in samples.traj_infos]
                progress.update(samples.stats.env_steps)
                progress.set_postfix_str(f"return {sampler.statistics().mean_return or math.nan:.0f}", refresh=False)
                for _ in range(samples.stats.env_steps):
                    learner.learn()
                sampler.publish()
                if samples.itr % 16 == 15:
                    infos = await sampler.evaluate_agent(max_trajectories=20)
                    evaluations.append((learner.added, float(np.mean([info.Return for info in infos]))))
                if learner.added >= args.steps or (evaluations and evaluations[-1][1] >= args.goal):
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; go on with what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        returns = [info.Return for info in await sampler.evaluate_agent(max_trajectories=100)]
    draw_curve(args, episodes, evaluations)
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
