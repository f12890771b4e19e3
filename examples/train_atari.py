"""PPO on Pong, from 42 x 42 pixels: each frame is stored once, and stacked where an agent or the training looks at it.

Two groups of workers collect in turn while this process trains. Ctrl-C ends that early: it is evaluated all the same.
"""

import argparse
import asyncio
import copy
from dataclasses import dataclass, fields
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

import aiosampler


@dataclass(frozen=True)
class Args:
    game: str = "ALE/Pong-v5"
    sticky: float = 0.0  # how often an emulator's frame repeats the action before; 0.25 is the game's own default
    seed: int = 0
    steps: int = 4_000_000  # environment steps at most, of four frames each
    goal: float = 19.0  # mean score of the last 100 games
    output: str = "train_atari.png"  # the learning curve
    device: str = "cpu"  # where the agent acts and is trained
    workers: int = 2
    batch_T: int = 128  # time steps of a batch
    batch_B: int = 16  # environments
    epochs: int = 4  # passes over a batch
    minibatches: int = 8  # of a pass
    learning_rate: float = 5e-4  # at the start; it falls to zero
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.1  # how far the policy may move within a batch
    entropy: float = 0.01  # how much chance is worth
    games: int = 10  # of the evaluation


def make(game: str, sticky: float, *, training: bool = True) -> gym.Env[Any, Any]:
    env = AtariPreprocessing(gym.make(game, frameskip=1, repeat_action_probability=sticky), screen_size=42)
    return aiosampler.EpisodicLives(env, clip_rewards=True) if training else env


class ActorCritic(nn.Module):
    """Logits ``[n, A]`` and values ``[n]`` of stacks ``[n, 4, 42, 42]``."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        convolutions = nn.Conv2d(4, 16, 6, stride=3), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()
        self.body = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 5 * 5, 256), nn.ReLU())
        self.policy, self.critic = nn.Linear(256, int(action_space.n)), nn.Linear(256, 1)
        for name, leaf in self.named_parameters():
            scale = 0.01 if name == "policy.weight" else 2**0.5  # at first, all actions are alike
            nn.init.orthogonal_(leaf, scale) if leaf.dim() > 1 else nn.init.zeros_(leaf)

    def forward(self, stack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(nn.functional.layer_norm(stack.float(), stack.shape[1:]))  # contrasts, not a grey background
        return self.policy(hidden), self.critic(hidden).squeeze(-1)


def advantages(samples: aiosampler.Samples, args: Args) -> torch.Tensor:
    """Generalised advantage estimates ``[T, B]`` (Schulman et al. 2016)."""
    agent: Any = samples.agent  # with values, since they were asked for
    env, value = samples.env, agent.agent_info["value"]
    following = torch.cat((value[1:], agent.bootstrap_value[None]))
    following = torch.where(env.done, agent.final_value.dense() * ~env.terminated, following)
    delta = env.reward + args.discount * following - value
    advantage, ahead = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        advantage[t] = ahead = delta[t] + args.discount * args.gae_lambda * ~env.done[t] * ahead
    return advantage


def learn(model: nn.Module, optimizer: Any, samples: aiosampler.Samples, agent: Any, args: Args) -> None:
    stacks, info, gae = aiosampler.FrameStacks(samples, agent), samples.agent.agent_info, advantages(samples, args)
    batch = samples.agent.action, info["log_prob"], gae, gae + info["value"]
    for _ in range(args.epochs):
        for rows in torch.randperm(args.batch_T * args.batch_B, device=args.device).chunk(args.minibatches):
            t, b = rows // args.batch_B, rows % args.batch_B
            action, old_log_prob, advantage, goal = (leaf[t, b] for leaf in batch)
            logits, value = model(stacks[t, b])
            log_probs = torch.log_softmax(logits, -1)
            ratio = (log_probs.gather(-1, action[:, None]).squeeze(-1) - old_log_prob).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
            entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
            optimizer.zero_grad()
            torch.autograd.backward(policy_loss + 0.5 * nn.functional.mse_loss(value, goal) - args.entropy * entropy)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


async def main(args: Args) -> None:
    gym.register_envs(ale_py)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the sampler needs CPUs too
    agent: Any = aiosampler.FrameStackAgent(aiosampler.CategoricalPgAgent(ActorCritic), 4)
    scores: list[tuple[int, float]] = []  # environment steps so far, score of a game
    sizes = dict[str, Any](batch_T=args.batch_T, batch_B=args.batch_B, n_workers=args.workers, device=args.device)
    async with aiosampler.AsyncAlternatingSampler(
        make,
        agent=agent,
        env_kwargs={"game": args.game, "sticky": args.sticky},
        eval_env_kwargs={"game": args.game, "sticky": args.sticky, "training": False},  # whole games
        seed=args.seed,
        bootstrap_value=True,
        traj_info_cls=aiosampler.AtariTrajInfo,
        eval_n_envs=args.games,
        eval_max_steps=args.games * 27_000,
        **sizes,
    ) as sampler:
        model = copy.deepcopy(agent.model).to(args.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=1e-5)
        progress = tqdm(total=args.steps, unit=" steps")
        try:
            async for samples in sampler:  # the next batch is already being collected
                infos: list[Any] = samples.traj_infos
                scores += [(progress.n, info.Score) for info in infos if info.GameOver]
                progress.update(samples.stats.env_steps)
                recent = np.mean([score for _, score in scores[-100:]]) if scores else float("nan")
                progress.set_postfix_str(f"score {recent:.1f}", refresh=False)
                optimizer.param_groups[0]["lr"] = args.learning_rate * max(0.0, 1 - progress.n / args.steps)
                learn(model, optimizer, samples.to(args.device), agent, args)
                sampler.publish(model)
                if progress.n >= args.steps or (len(scores) >= 100 and recent >= args.goal):
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; go on with what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        evaluation: list[Any] = await sampler.evaluate_agent(max_trajectories=args.games)
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    axes.plot(*np.array(scores).reshape(-1, 2).T, ".", alpha=0.3)
    axes.set(title=f"PPO on {args.game}", xlabel="environment steps", ylabel="score of a game in training")
    figure.savefig(args.output)
    print(f"evaluation: mean score {np.mean([info.Score for info in evaluation]):.1f} over {len(evaluation)} games")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
