"""A simulator behind a WebSocket: each connection has a CartPole of its own. Some break, and some answers are slow.

    python examples/simulator_server.py --port 8765 --drop 0.001 --slow 0.001

Needs aiohttp (the extra `examples`). `remote_simulator.py` starts it, and collects from it.
"""

import argparse
import asyncio
import random

import gymnasium as gym
from aiohttp import web


class Simulator:
    def __init__(self, drop: float, slow: float, seed: int) -> None:
        self.drop, self.slow, self.random = drop, slow, random.Random(seed)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=10)
        await socket.prepare(request)
        env, step = gym.make("CartPole-v1"), 0
        async for message in socket:
            asked = message.json()
            if self.random.random() < self.drop and request.transport is not None:
                request.transport.abort()  # as a cable that is pulled
                break
            await asyncio.sleep(60 if self.random.random() < self.slow else 0.001)
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
    parser.add_argument("--drop", type=float, default=0.0, help="share of the questions that break the connection")
    parser.add_argument("--slow", type=float, default=0.0, help="share of the answers that take a minute")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    app = web.Application()
    app.router.add_get("/", Simulator(args.drop, args.slow, args.seed).serve)
    web.run_app(app, host="127.0.0.1", port=args.port, print=None)
