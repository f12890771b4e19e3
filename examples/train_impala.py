"""IMPALA on CartPole: two groups of workers collect in turn while this process trains; V-trace mends the policy's lag.

With ``--actors 4`` four such samplers collect on a Ray cluster: that of RAY_ADDRESS, or else one of this machine alone.
Ctrl-C ends the training early: what was learned is evaluated, and the learning curve drawn, all the same.
"""

import argparse
import asyncio
import functools
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from aiosampler import AsyncAlternatingSampler, CategoricalPgAgent, Samples


@dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 500_000  # environment steps at most; training ends before if the evaluation reaches `goal`
    goal: float = 485.0  # mean return
    output: str = "train_impala.png"  # the learning curve
    batch_T: int = 32  # time steps of a batch
    batch_B: int = 32  # environments
    actors: int = 0  # samplers on Ray, with as many environments each; 0 is one sampler of this process
    learning_rate: float = 2e-3  # at the start; it falls to zero
    discount: float = 0.99
    entropy: float = 0.01  # how much chance is worth
    eval_every: int = 25  # batches


class ActorCritic(nn.Module):
    """Logits ``[..., A]`` and values ``[...]`` of observations ``[..., n]``."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        n = observation_space.shape[0]
        self.policy = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, int(action_space.n)))
        self.critic = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(observation), self.critic(observation).squeeze(-1)


def v_trace(
    rho: Tensor, reward: Tensor, value: Tensor, following: Tensor, samples: Samples, discount: float
) -> tuple[Tensor, Tensor]:
    """Targets of the values, and advantages, all ``[T, B]`` (Espeholt et al. 2018).

    For each action `rho` is its probability now, over what it was when it was chosen, and at most 1; `reward` what it
    gave; `value` that of what it was chosen for, and `following` of what it led to, zero where an episode terminated.
    """
    done = samples.env.done
    delta = rho * (reward + discount * following - value)
    correction, ahead = torch.empty_like(delta), torch.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        correction[t] = ahead = delta[t] + discount * rho[t] * ~done[t] * ahead
    target = value + correction
    target_ahead = torch.cat((torch.where(done[:-1], following[:-1], target[1:]), following[-1:]))
    return target, rho * (reward + discount * target_ahead - value)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, args: Args) -> None:
    env, action = samples.env, samples.agent.action
    logits, value = model(env.observation)
    log_probs = logits.log_softmax(-1)
    log_prob = log_probs.gather(-1, action[..., None]).squeeze(-1)
    with torch.no_grad():
        # next_observation() has what truncated episodes ended with: they would have gone on from there.
        following = model(env.next_observation())[1] * ~env.terminated
        rho = (log_prob - samples.agent.agent_info["log_prob"]).exp().clamp(max=1)
        reward = (1 - args.discount) * env.reward  # so that values are between 0 and 1
        target, advantage = v_trace(rho, reward, value, following, samples, args.discount)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    loss = -10 * (advantage * log_prob).mean() + 5 * nn.functional.mse_loss(value, target) - args.entropy * entropy
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def draw_curve(path: str, episodes: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> None:
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    axes.plot(*np.array(episodes).reshape(-1, 2).T, ".", alpha=0.1, label="training episodes")
    axes.plot(*np.array(evaluations).reshape(-1, 2).T, "o-", label="evaluation")
    axes.set(title="IMPALA on CartPole-v1", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(path)


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the network is small, and the sampler needs a CPU too
    episodes: list[tuple[int, float]] = []  # environment steps so far, return
    evaluations: list[tuple[int, float]] = []  # environment steps so far, mean return
    kind: Any = AsyncAlternatingSampler
    if args.actors:
        import ray

        from aiosampler.ray import RaySampler

        ray.init()
        kind = functools.partial(RaySampler, kind, n_actors=args.actors)
    async with kind(
        "CartPole-v1",
        agent=CategoricalPgAgent(ActorCritic),
        batch_T=args.batch_T,
        batch_B=args.batch_B,
        n_workers=2,
        seed=args.seed,
        eval_n_envs=20,
        eval_max_steps=100 * 500,
        overlap=True,  # collect the next batch while this process trains
    ) as sampler:
        model: Any = sampler.agent.model
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
        progress = tqdm(total=args.steps, unit=" steps")
        try:
            async for samples in sampler:
                episodes += [(progress.n, info.Return) for info in samples.traj_infos]
                progress.update(samples.stats.env_steps)
                lag = sampler.policy_version - samples.policy_version
                progress.set_postfix_str(f"policy lag {lag}, return {sampler.statistics().mean_return or 0:.0f}")
                optimizer.param_groups[0]["lr"] = args.learning_rate * max(0.0, 1 - progress.n / args.steps)
                learn(model, optimizer, samples, args)
                sampler.publish()
                if sampler.statistics().batches % args.eval_every == 0:
                    infos = await sampler.evaluate_agent(max_trajectories=20)
                    evaluations.append((progress.n, float(np.mean([info.Return for info in infos]))))
                if progress.n >= args.steps or (evaluations and evaluations[-1][1] >= args.goal):
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; go on with what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        returns = [info.Return for info in await sampler.evaluate_agent(max_trajectories=100)]
    draw_curve(args.output, episodes, evaluations)
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
