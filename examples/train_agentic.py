"""A policy learns to ask: a game of several turns behind a service whose answers take their time.

Each environment is a connection to `simulator_server.py`, and its methods are coroutines. With `lockstep=False` nobody
waits for the slowest answer: the policy acts for whoever has got one, while this process trains on the batch before.
The picture shows that it learns, and who does what in a batch. Needs aiohttp (the extra `examples`).
"""

import argparse
import asyncio
import atexit
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import aiohttp
import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import AsyncGpuSampler, CategoricalPgAgent, Samples, Timeline


@dataclass(frozen=True)
class Args:
    seed: int = 0
    steps: int = 150_000  # turns at most; training ends before if `goal` is reached
    goal: float = 0.95  # share of the last 1000 games that were won
    latency: float = 0.005  # mean seconds of an answer; none takes longer than twice that
    output: str = "train_agentic.png"  # the picture


def start_service(latency: float) -> int:
    listening = socket.create_server(("127.0.0.1", 0))
    server = str(Path(__file__).with_name("simulator_server.py"))
    command = [sys.executable, server, "--env=Guess-v0", "--fd=0", f"--latency={latency}"]
    atexit.register(subprocess.Popen(command, stdin=listening.fileno(), start_new_session=True).kill)  # not by Ctrl-C
    return int(listening.getsockname()[1])


async def connect(port: int) -> "RemoteGuess":
    session = aiohttp.ClientSession()
    return RemoteGuess(session, await session.ws_connect(f"http://127.0.0.1:{port}/"))


class RemoteGuess:
    observation_space, action_space = gym.spaces.MultiBinary(5 * 18), gym.spaces.Discrete(16)  # five turns; a number

    def __init__(self, session: aiohttp.ClientSession, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.session, self.connection = session, connection

    async def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return (await self.ask({"seed": seed}))[0], {}

    async def step(self, action: Any) -> tuple[Any, ...]:
        return await self.ask({"action": int(action)})

    async def ask(self, question: dict[str, Any]) -> tuple[Any, ...]:
        await self.connection.send_json(question)
        observation, *rest = await self.connection.receive_json()
        return np.array(observation, np.int8), *rest

    async def close(self) -> None:
        await self.session.close()


class ActorCritic(nn.Module):
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        body = nn.Linear(observation_space.n, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.layers = nn.Sequential(*body, nn.Linear(128, int(action_space.n) + 1))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.layers(observation.float())
        return output[..., :-1], output[..., -1]


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples) -> None:
    """PPO; what a game is worth is whether it is won, so nothing is discounted."""
    agent: Any = samples.agent  # with values, since they were asked for
    value, following, goal = agent.agent_info["value"], agent.bootstrap_value, torch.empty_like(samples.env.reward)
    for t in reversed(range(len(goal))):
        goal[t] = following = samples.env.reward[t] + following * ~samples.env.done[t]
    advantage = (goal - value - (goal - value).mean()) / ((goal - value).std() + 1e-8)
    for _ in range(4):
        logits, value = model(samples.env.observation)
        log_probs = logits.log_softmax(-1)
        ratio = (log_probs.gather(-1, agent.action[..., None]).squeeze(-1) - agent.agent_info["log_prob"]).exp()
        loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = loss + 0.5 * nn.functional.mse_loss(value, goal) + 0.01 * (log_probs.exp() * log_probs).sum(-1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def draw(path: str, won: list[float], timeline: Timeline, training: list[tuple[int, int]]) -> None:
    above, below = (figure := Figure(figsize=(8, 7), layout="constrained")).subplots(2)
    above.plot(np.convolve(won, np.ones(500) / 500, "valid"))
    above.set(xlabel="games", ylabel="share of the last 500 that were won", ylim=(0, 1))
    spans = [*timeline.steps, np.array(training[-3:])]  # [..., 2]; a step lasts from its first connection to its last
    for row, (begin, end) in enumerate((each - timeline.steps.min()).T / 1e6 for each in spans):
        below.hlines(row + np.linspace(-0.4, 0.4, len(begin)), begin, end, colors=f"C{row // (len(spans) - 1)}", lw=4)
    below.set_yticks(range(len(spans)), [*(f"steps of worker {w}" for w in range(len(spans) - 1)), "training"])
    below.set(xlabel="milliseconds of a batch", xlim=(0, np.ptp(timeline.steps) / 1e6))
    figure.savefig(path)


async def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the network is small
    won, training = list[float](), list[tuple[int, int]]()  # 1 or 0 for each game; when it began and ended
    agent: Any = CategoricalPgAgent(ActorCritic)
    sizes = dict[str, Any](batch_T=16, batch_B=32, n_workers=2, bootstrap_value=True, seed=args.seed)
    games = dict[str, Any](eval_n_envs=20, eval_max_steps=2000, eval_keep_envs=False)  # or connections would time out
    where = {"port": start_service(args.latency)}
    async with AsyncGpuSampler(connect, env_kwargs=where, agent=agent, lockstep=False, **sizes, **games) as sampler:
        optimizer = torch.optim.Adam(agent.model.parameters())
        progress = tqdm(total=args.steps, unit=" turns")
        try:
            async for samples in sampler:  # the next batch is already being collected
                won += [info.Return for info in samples.traj_infos]
                progress.update(samples.stats.env_steps)
                progress.set_postfix_str(f"won {np.mean(won[-1000:]):.2f}", refresh=False)
                optimizer.param_groups[0]["lr"] = 3e-3 * max(0.0, 1 - progress.n / args.steps)
                began = time.monotonic_ns()
                learn(agent.model, optimizer, samples)
                training.append((began, time.monotonic_ns()))
                sampler.publish()
                if progress.n >= args.steps or (len(won) >= 1000 and np.mean(won[-1000:]) >= args.goal):
                    break
        except asyncio.CancelledError:  # Ctrl-C: asyncio cancels this task; draw what was learned so far
            if task := asyncio.current_task():
                task.uncancel()
        progress.close()
        evaluation = [info.Return for info in await sampler.evaluate_agent(max_trajectories=100)]
    draw(args.output, won, samples.stats.timeline, training)
    print(f"evaluation: {np.mean(evaluation):.2f} of {len(evaluation)} games were won")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    with open(args.output, "ab"):  # or it would be told only in the end that it cannot be written
        asyncio.run(main(args))
