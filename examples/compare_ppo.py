"""PPO by Stable-Baselines3 beside PPO on aiosampler, with equal networks, hyper-parameters, steps and updates.

    python examples/compare_ppo.py --tasks cartpole,waiting,cheetah,pong

Each runs in a process of its own, its start included, imports left out; more processes are forked from that one. SB3
steps its environments in its own process (DummyVecEnv) or in one for each (SubprocVecEnv), and trains in between. Here
they are stepped in the way that suits them, and but for CartPole, whose start decides, while this process trains on the
batch before. Needs stable-baselines3, and ale-py and mujoco for two of the tasks (the extras `sb3`, `atari`, `worlds`).
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from aiosampler import (
    AsyncCpuSampler,
    AsyncSerialSampler,
    CategoricalPgAgent,
    FrameStackAgent,
    FrameStacks,
    GaussianPgAgent,
    Samples,
)


@dataclass(frozen=True)
class Task:
    """What both are given."""

    env: Any  # an id, or what makes it
    steps: int
    T: int = 32
    B: int = 8
    minibatch: int = 256
    epochs: int = 10
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    seed: int = 0


class Waiting(gym.Env[Any, Any]):
    """A world that is somewhere else: each step takes a millisecond, in which there is nothing to do."""

    observation_space: gym.Space[Any] = gym.spaces.Box(-1, 1, (8,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 8).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.001)
        return self.following(action)

    def following(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.np_random.uniform(-1, 1, 8).astype(np.float32), float(action == 0), self.t == 100, False, {}


class Awaited:
    """The same with coroutines, which wait together."""

    observation_space, action_space = Waiting.observation_space, Waiting.action_space

    def __init__(self) -> None:
        self.env = Waiting()

    async def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed)

    async def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        await asyncio.sleep(0.001)
        return self.env.following(action)

    async def close(self) -> None:
        self.env.close()


def pong() -> gym.Env[Any, Any]:
    import ale_py

    gym.register_envs(ale_py)
    return gym.wrappers.AtariPreprocessing(gym.make("ALE/Pong-v5", frameskip=1))


def stacked_pong() -> gym.Env[Any, Any]:
    return gym.wrappers.FrameStackObservation(pong(), 4)


TASKS = {
    "cartpole": Task("CartPole-v1", 50_000, epochs=20, learning_rate=1e-3, gamma=0.98, gae_lambda=0.8),
    "waiting": Task(Waiting, 10_000, epochs=4),
    "cheetah": Task("HalfCheetah-v5", 60_000, T=256, epochs=4),
    "pong": Task(stacked_pong, 6_000, T=64, B=8, epochs=2, clip=0.1, entropy=0.01),
}


class ActorCritic(nn.Module):
    """SB3's networks: two hidden layers of 64 each for policy and values, or convolutions for both."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self.sees, shape = len(observation_space.shape) == 3, observation_space.shape
        if self.sees:
            self.body = convolutions(shape[0])
        discrete = isinstance(action_space, gym.spaces.Discrete)
        outputs = int(action_space.n) if discrete else action_space.shape[0]
        self.policy, self.critic = (nn.Linear(256, n) if self.sees else mlp(shape[0], n) for n in (outputs, 1))
        self.log_std = None if discrete else nn.Parameter(torch.zeros(outputs))
        for part, gain in ((self, 2**0.5), (self.policy, 0.01), (self.critic, 1.0)):  # as SB3 begins
            layers: list[Any] = [layer for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
            for layer in layers if part is self else layers[-1:]:
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.constant_(layer.bias, 0.0)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.body(observation / 255) if self.sees else observation.float()
        policy, value = self.policy(hidden), self.critic(hidden).squeeze(-1)
        return (policy, value) if self.log_std is None else (policy, self.log_std.expand_as(policy), value)


def convolutions(frames: int) -> nn.Sequential:  # Mnih et al. 2013
    seen = nn.Conv2d(frames, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*seen, nn.Linear(32 * 9 * 9, 256), nn.ReLU())


def mlp(n: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def judge(policy: list[torch.Tensor], action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probability of each action, and the mean entropy."""
    if len(policy) == 1:
        log_probs = policy[0].log_softmax(-1)
        return log_probs.gather(-1, action[:, None]).squeeze(-1), -(log_probs.exp() * log_probs).sum(-1).mean()
    mean, log_std = policy
    half_log = 0.5 * math.log(2 * math.pi)
    log_prob = (-0.5 * ((action - mean) / log_std.exp()).square() - log_std - half_log).sum(-1)
    return log_prob, (log_std + 0.5 + half_log).sum(-1).mean()


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, agent: Any, task: Task) -> None:
    part, env = samples.agent, samples.env
    info: Any = part.agent_info
    assert part.bootstrap_value is not None
    assert part.final_value is not None
    value = info["value"]
    following = torch.where(
        env.done, part.final_value.dense() * ~env.terminated, torch.cat((value[1:], part.bootstrap_value[None]))
    )
    delta, ahead = env.reward + task.gamma * following - value, torch.zeros(task.B)
    advantage = torch.empty_like(delta)
    for t in reversed(range(task.T)):
        advantage[t] = ahead = delta[t] + task.gamma * task.gae_lambda * ~env.done[t] * ahead
    goals = advantage + value
    flat = [column.flatten(0, 1) for column in (info.get("sample", part.action), info["log_prob"], advantage, goals)]
    stacks = FrameStacks(samples, agent) if isinstance(agent, FrameStackAgent) else None
    for _ in range(task.epochs):
        for rows in torch.randperm(goals.numel()).chunk(goals.numel() // task.minibatch):
            at = rows // task.B, rows % task.B
            action, old_log_prob, advantage, goal = (column[rows] for column in flat)
            *policy, value = model(env.observation[at] if stacks is None else stacks[at])
            log_prob, entropy = judge(policy, action)
            ratio = (log_prob - old_log_prob).exp()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - task.clip, 1 + task.clip) * advantage).mean()
            optimizer.zero_grad()
            torch.autograd.backward(policy_loss + 0.5 * nn.functional.mse_loss(value, goal) - task.entropy * entropy)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


class Clock:
    """Seconds of each stage, one after the other."""

    def __init__(self) -> None:
        self.seconds = {"start": 0.0, "collect": 0.0, "train": 0.0, "end": 0.0}
        self._since = time.perf_counter()

    def end(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._since
        self._since = now


def by_sb3(task: Task, *, processes: bool) -> tuple[Clock, list[float]]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    clock, returns = Clock(), list[float]()

    class Timing(BaseCallback):
        def _on_rollout_start(self) -> None:
            clock.end("train" if self.num_timesteps else "start")

        def _on_step(self) -> bool:
            returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            return True

        def _on_rollout_end(self) -> None:
            clock.end("collect")

    class Seeing(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, 256)
            self.layers = convolutions(space.shape[0])

        def forward(self, observation: torch.Tensor) -> Any:
            return self.layers(observation)

    kind, options = (SubprocVecEnv, {"start_method": "fork"}) if processes else (DummyVecEnv, {})
    env = make_vec_env(task.env, task.B, seed=task.seed, vec_env_cls=kind, vec_env_kwargs=options)
    ppo = PPO(
        "CnnPolicy" if task.env is stacked_pong else "MlpPolicy",
        env,
        n_steps=task.T,
        batch_size=task.minibatch,
        n_epochs=task.epochs,
        learning_rate=task.learning_rate,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_range=task.clip,
        ent_coef=task.entropy,
        seed=task.seed,
        device="cpu",
        policy_kwargs={"features_extractor_class": Seeing, "net_arch": []} if task.env is stacked_pong else None,
    )
    ppo.learn(task.steps, callback=Timing(0))
    clock.end("train")
    env.close()
    clock.end("end")
    return clock, returns


async def by_aiosampler(name: str, task: Task) -> tuple[Clock, list[float]]:
    clock, returns, steps = Clock(), list[float](), 0
    agent: Any = (GaussianPgAgent if name == "cheetah" else CategoricalPgAgent)(ActorCritic)
    sizes = {"batch_T": task.T, "batch_B": task.B}
    options: dict[str, Any] = {**sizes, "seed": task.seed, "bootstrap_value": True, "start_method": "fork"}
    kind: Any = AsyncCpuSampler
    env_fn: Any = task.env
    match name:
        case "cartpole":
            kind = AsyncSerialSampler
            options |= {"in_process": True, "overlap": False}
        case "cheetah":
            kind = AsyncSerialSampler  # with few CPUs, one process for all is cheaper than workers with a few each
        case "waiting":
            kind, env_fn = AsyncSerialSampler, Awaited
        case "pong":
            env_fn, agent = pong, FrameStackAgent(agent, 4)
    async with kind(env_fn, agent=agent, **options) as sampler:
        optimizer = torch.optim.Adam(agent.model.parameters(), lr=task.learning_rate, eps=1e-5, fused=True)
        clock.end("start")
        async for samples in sampler:
            clock.end("collect")
            steps += samples.stats.env_steps
            returns += [info.Return for info in samples.traj_infos]
            learn(agent.model, optimizer, samples, agent, task)
            sampler.publish()
            clock.end("train")
            if steps >= task.steps:
                break
    clock.end("end")
    return clock, returns


VARIANTS = ("SB3, DummyVecEnv", "SB3, SubprocVecEnv", "aiosampler")


def run(name: str, variant: str, steps: int, seed: int) -> None:
    """One of them, in this process; prints its numbers."""
    task = replace(TASKS[name], steps=steps or TASKS[name].steps, seed=seed)
    torch.optim.Adam([torch.zeros(1)])  # what torch imports here would count as start
    torch.manual_seed(seed)
    torch.set_num_threads(2 if name == "pong" and variant != "aiosampler" else 1)  # small networks are faster with one
    if variant == "aiosampler":
        clock, returns = asyncio.run(by_aiosampler(name, task))
    else:
        clock, returns = by_sb3(task, processes=variant == VARIANTS[1])
    print(json.dumps([clock.seconds, float(np.mean(returns[-20:])) if returns else math.nan]))


def compare(name: str, steps: int, seed: int) -> None:
    print(f"{name}: {steps or TASKS[name].steps:,} steps, {TASKS[name].B} environments")
    total: dict[str, float] = {}
    for variant in VARIANTS[:: 2 if name == "cartpole" else 1]:  # processes for it would take longer than all else
        options = ["--tasks", name, "--variant", variant, "--steps", str(steps), "--seed", str(seed)]
        command = [sys.executable, __file__, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # simulators print a lot
        if done.returncode:
            sys.exit(done.stderr)
        seconds, score = json.loads(done.stdout.splitlines()[-1])
        total[variant] = sum(seconds.values())
        where = ", ".join(f"{stage} {part:5.2f}" for stage, part in seconds.items())
        print(f"  {variant:18} {total[variant]:6.2f} s: {where}; last returns {score:.0f}", flush=True)
    ratios = [f"{total[variant] / total['aiosampler']:.2f}" for variant in total if variant != "aiosampler"]
    print(f"  times as fast: {' and '.join(ratios)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--steps", type=int, default=0, help="of each, in place of those of the task")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", help="run only this, in this process")
    args = parser.parse_args()
    for name in args.tasks.split(","):
        if args.variant:
            run(name, args.variant, args.steps, args.seed)
        else:
            compare(name, args.steps, args.seed)
