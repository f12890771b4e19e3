"""Many runs at once in one event loop: seeds times learning rates, the CPUs divided among them, one picture of all.

    python examples/sweep.py --learning_rates 0.0003,0.001,0.003,0.01 --seeds 5

What a run has found is written to the database when it ends, all or nothing. So a sweep that was killed goes on where
it was: run it again with the same arguments. A run that fails is told at the end, and tried again the next time.
"""

import argparse
import asyncio
import contextlib
import itertools
import sqlite3
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from aiosampler import AsyncSerialSampler, CategoricalPgAgent, Samples, usable_cpus

TABLE = "CREATE TABLE IF NOT EXISTS curve (learning_rate REAL, seed INT, budget INT, steps INT, mean_return REAL)"


@dataclass(frozen=True)
class Args:
    learning_rates: str = "0.0003,0.001,0.003,0.01"
    seeds: int = 5  # 0 and up
    steps: int = 60_000  # environment steps of each run
    cpus: int = 1  # of each run: so many run at once as there are CPUs for
    database: str = "sweep.sqlite"
    picture: str = "sweep.png"
    discount: float = 0.98


class ActorCritic(nn.Module):
    """Logits ``[..., A]`` and values ``[...]`` of observations ``[..., n]``."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        n = observation_space.shape[0]
        self.policy = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, int(action_space.n)))
        self.critic = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(observation), self.critic(observation).squeeze(-1)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, discount: float) -> None:
    """One step of advantage actor-critic (Mnih et al. 2016) on a batch."""
    env, agent = samples.env, samples.agent
    assert agent.bootstrap_value is not None
    assert agent.final_value is not None
    ends = agent.final_value.dense() * ~env.terminated  # what an episode that was cut would have gone on to
    goal, ahead = torch.empty_like(env.reward), agent.bootstrap_value
    for t in reversed(range(len(goal))):
        goal[t] = ahead = env.reward[t] + discount * torch.where(env.done[t], ends[t], ahead)
    logits, value = model(env.observation)
    log_probs = torch.log_softmax(logits, -1)
    advantage = goal - value.detach()
    policy_loss = -(log_probs.gather(-1, agent.action[..., None]).squeeze(-1) * advantage).mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    optimizer.zero_grad()
    torch.autograd.backward(policy_loss + 0.25 * nn.functional.mse_loss(value, goal) - 0.01 * entropy)
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


async def run(rate: float, seed: int, args: Args, progress: Any) -> list[tuple[int, float]]:
    """Train once; return steps and the mean return of the last episodes, some twenty times."""
    curve: list[tuple[int, float]] = []
    steps = 0
    async with AsyncSerialSampler(
        "CartPole-v1",
        agent=CategoricalPgAgent(ActorCritic),
        batch_T=16,
        batch_B=16,
        seed=seed,
        bootstrap_value=True,
        overlap=False,
        cpus=args.cpus,  # waits until they are free, in the order of asking
    ) as sampler:
        model = sampler.agent.model
        assert model is not None
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        try:
            while steps < args.steps:
                samples = await sampler.obtain_samples()
                await asyncio.to_thread(learn, model, optimizer, samples, args.discount)
                sampler.publish()
                steps += samples.stats.env_steps
                progress.update(samples.stats.env_steps)
                now = sampler.statistics().mean_return
                if steps >= args.steps * (len(curve) + 1) / 20 and now is not None:
                    curve.append((steps, now))
        finally:
            progress.total -= min(0, steps - args.steps)  # what a run that failed has not done
    return curve


def draw(path: str, database: sqlite3.Connection, args: Args) -> None:
    """A line for each learning rate, with a band of 95 % for its mean over the seeds (1.96 standard errors)."""
    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    grid = np.linspace(args.steps / 20, args.steps, 20)
    for (rate,) in database.execute("SELECT DISTINCT learning_rate FROM curve WHERE budget = ?", (args.steps,)):
        select = (
            "SELECT seed, steps, mean_return FROM curve WHERE learning_rate = ? AND budget = ? ORDER BY seed, steps"
        )
        rows = database.execute(select, (rate, args.steps))
        curves = [np.array([row[1:] for row in of]) for _, of in itertools.groupby(rows, lambda row: row[0])]
        values = np.array([np.interp(grid, *curve.T) for curve in curves])
        mean, error = values.mean(0), 1.96 * values.std(0, ddof=len(values) > 1) / len(values) ** 0.5
        (line,) = axes.plot(grid, mean, label=f"{rate:g} ({len(values)} seeds)")
        axes.fill_between(grid, mean - error, mean + error, color=line.get_color(), alpha=0.2)
    axes.set(title="Actor-critic on CartPole-v1", xlabel="environment steps", ylabel="mean return of 100 episodes")
    axes.legend(title="learning rate")
    figure.savefig(path)


def problem(args: Args) -> str | None:
    """What is wrong with the arguments, before anything is run."""
    try:
        list(map(float, args.learning_rates.split(",")))
    except ValueError:
        return f"--learning_rates must be numbers with commas between them, got {args.learning_rates!r}"
    for name in ("seeds", "steps", "cpus"):
        if getattr(args, name) < 1:
            return f"--{name} must be at least 1, got {getattr(args, name)}"
    if not 0 <= args.discount <= 1:
        return f"--discount must be between 0 and 1, got {args.discount}"
    if args.cpus > (there := len(usable_cpus())):
        return f"--cpus={args.cpus} is more than this process may use, which is {there}"
    for path in (args.database, args.picture):
        try:
            open(path, "ab").close()
        except OSError as exc:
            return f"cannot write {path!r}: {exc.strerror}"
    return None


async def main(args: Args) -> int:
    torch.set_num_threads(1)
    wanted = list(itertools.product(map(float, args.learning_rates.split(",")), range(args.seeds)))
    failures: list[str] = []
    with contextlib.closing(sqlite3.connect(args.database)) as database:
        database.execute(TABLE)
        there = set(database.execute("SELECT DISTINCT learning_rate, seed FROM curve WHERE budget = ?", (args.steps,)))
        left = [each for each in wanted if each not in there]
        print(f"{len(wanted) - len(left)} of {len(wanted)} runs were there already", flush=True)
        with tqdm(total=args.steps * len(left), unit=" steps") as progress:

            async def attempt(rate: float, seed: int) -> None:
                try:
                    curve = await run(rate, seed, args, progress)
                except Exception as exc:  # the others go on
                    failures.append(f"learning rate {rate:g}, seed {seed}: {type(exc).__name__}: {exc}")
                    return
                with database:  # all of it, or nothing
                    rows = [(rate, seed, args.steps, *point) for point in curve]
                    database.executemany("INSERT INTO curve VALUES (?, ?, ?, ?, ?)", rows)
                progress.set_postfix_str(f"lr {rate:g}, seed {seed}: {curve[-1][1]:.0f}", refresh=False)

            async with asyncio.TaskGroup() as tasks:
                for rate, seed in left:
                    tasks.create_task(attempt(rate, seed), name=f"run {rate:g}, {seed}")
        draw(args.picture, database, args)
    for failure in failures:
        print(f"failed: {failure.splitlines()[0]}")
    print(f"{len(left) - len(failures)} runs more, {len(failures)} failed; see {args.picture}")
    return int(bool(failures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    if wrong := problem(args):
        parser.error(wrong)
    raise SystemExit(asyncio.run(main(args)))
