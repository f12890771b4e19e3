"""A simulator behind a WebSocket: each connection has a world of its own. Some break, and some answers are slow.

    python examples/simulator_server.py --port 8765 --drop 0.001 --slow 0.001

Needs aiohttp (the extra `examples`). `remote_simulator.py` and `train_agentic.py` start it, and collect from it.
"""

import argparse
import asyncio
import random
import socket
from typing import Any

import gymnasium as gym
import numpy as np
from aiohttp import web


class Guess(gym.Env[Any, Any]):
    """Find a number of 0 to 15 in five turns; after each the player is told whether it is higher, or lower.

    An observation is the talk so far, ``[5 turns, 16 guesses and 2 answers]``, flattened.
    """

    observation_space: gym.Space[Any] = gym.spaces.MultiBinary(5 * 18)
    action_space: gym.Space[Any] = gym.spaces.Discrete(16)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.turn, self.talk = self.np_random.integers(16), 0, np.zeros((5, 18), np.int8)
        return self.talk.flatten(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        found = bool(action == self.number)
        self.talk[self.turn, action] = 1
        self.talk[self.turn, 16:] = action < self.number, action > self.number
        self.turn += 1
        return self.talk.flatten(), float(found), found or self.turn == 5, False, {}


gym.register("Guess-v0", f"{__name__}:Guess")


class Simulator:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.random = args, random.Random(args.seed)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=10)
        await socket.prepare(request)
        env, step = gym.make(self.args.env), 0
        async for message in socket:
            asked = message.json()
            if self.random.random() < self.args.drop and request.transport is not None:
                request.transport.abort()  # as a cable that is pulled
                break
            stuck = self.random.random() < self.args.slow
            await asyncio.sleep(60 if stuck else self.args.latency * self.random.uniform(0, 2))
            if "action" in asked:
                step += 1
                observation, reward, terminated, truncated, _ = env.step(asked["action"])
            else:
                step, reward, terminated, truncated = 0, 0.0, False, False
                observation, _ = env.reset(seed=asked["seed"])
            await socket.send_json([observation.tolist(), float(reward), terminated, truncated, {"step": step}])
        env.close()
        return socket


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--fd", type=int, help="descriptor of a socket that listens already, in place of a port")
    parser.add_argument("--env", default="CartPole-v1", help="CartPole-v1 or Guess-v0")
    parser.add_argument("--latency", type=float, default=0.001, help="mean seconds until an answer")
    parser.add_argument("--drop", type=float, default=0.0, help="share of the questions that break the connection")
    parser.add_argument("--slow", type=float, default=0.0, help="share of the answers that take a minute")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    app = web.Application()
    app.router.add_get("/", Simulator(args).serve)
    where: dict[str, Any] = {"host": "127.0.0.1", "port": args.port}
    web.run_app(app, print=None, **where if args.fd is None else {"sock": socket.socket(fileno=args.fd)})
