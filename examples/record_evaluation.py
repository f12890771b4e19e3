"""Film an evaluation: one GIF for each episode, in a folder of each environment's own, so that none overwrites another.

`env_fn` asks for a `context` by naming a parameter so. It says which environment is being built, and whether it is for
evaluation: only those are filmed.
"""

import argparse
import asyncio
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
from PIL import Image, ImageDraw

from aiosampler import AsyncCpuSampler, EnvContext, RandomAgent

WIDTH, HEIGHT = 240, 120


class Film(gym.Wrapper[Any, Any, Any, Any]):
    """Draws what CartPole observes, and saves each episode when it ends.

    A world with ``render_mode="rgb_array"`` would draw itself: ``Image.fromarray(self.env.render())``; CartPole needs
    pygame for that.
    """

    def __init__(self, env: gym.Env[Any, Any], folder: Path) -> None:
        super().__init__(env)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.episode = folder, 0
        self.frames: list[Image.Image] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.frames = [draw(observation)]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(draw(observation))
        if terminated or truncated:
            path = self.folder / f"episode-{self.episode}.gif"
            self.frames[0].save(path, save_all=True, append_images=self.frames[1:], duration=20)
            self.episode += 1
        return observation, reward, terminated, truncated, info


def draw(observation: Any) -> Image.Image:
    image = Image.new("L", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    x, ground = WIDTH / 2 + 40 * float(observation[0]), HEIGHT - 20
    pen.rectangle((x - 20, ground - 10, x + 20, ground), fill="black")
    angle = float(observation[2])
    pen.line((x, ground - 10, x + 70 * math.sin(angle), ground - 10 - 70 * math.cos(angle)), fill="gray", width=5)
    return image


def make(folder: str, *, context: EnvContext | None) -> gym.Env[Any, Any]:
    env = gym.make("CartPole-v1")
    if context is None or not context.evaluation:
        return env
    return Film(env, Path(folder) / f"env-{context.index}")


async def main(folder: str, n_envs: int, episodes: int) -> None:
    async with AsyncCpuSampler(
        make, agent=RandomAgent(), batch_T=16, batch_B=4, env_kwargs={"folder": folder}, n_workers=2,
        eval_n_envs=n_envs, eval_max_trajectories=episodes, eval_max_steps=500 * episodes,
    ) as sampler:  # fmt: skip
        await sampler.obtain_samples()
        print(f"{len(await sampler.evaluate_agent())} episodes:")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default="videos")
    parser.add_argument("--n-envs", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=6)
    args = parser.parse_args()
    asyncio.run(main(**vars(args)))
    print(*sorted(Path(args.folder).rglob("*.gif")), sep="\n")
