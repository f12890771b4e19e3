"""Collecting from a simulator behind a network that drops connections, is slow, is killed, and comes back.

    python examples/remote_simulator.py --batches 40 --drop 0.001 --slow 0.0005 --kill

Each environment is a connection, and its methods are coroutines, so the environments of a worker wait together. One
whose connection breaks, or whose answer takes longer than `step_timeout`, is closed and built anew by itself; what it
did not do meanwhile is blank, and not `valid`. It is checked that nothing else is missing: in all valid rows, each step
is followed by the next of its episode. Needs aiohttp (the extra `examples`).
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import gymnasium as gym
import numpy as np

from aiosampler import AsyncCpuSampler, RandomAgent, Samples

SERVER = Path(__file__).with_name("simulator_server.py")


class RemoteCartPole:
    """An environment that is a connection; it connects with its first reset."""

    def __init__(self, port: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._url = f"http://127.0.0.1:{port}/"
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self._socket is None:
            self._session = aiohttp.ClientSession()
            self._socket = await self._session.ws_connect(self._url, heartbeat=10)
        observation, _, _, _, info = await self._ask({"seed": seed})
        return observation, info

    async def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return await self._ask({"action": int(action)})

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._session is not None:
            await self._session.close()

    async def _ask(self, question: dict[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self._socket is not None
        await self._socket.send_json(question)
        observation, reward, terminated, truncated, info = await self._socket.receive_json()
        return np.array(observation, np.float32), reward, terminated, truncated, info


async def start_server(port: int, args: argparse.Namespace, seed: int) -> asyncio.subprocess.Process:
    command = [sys.executable, str(SERVER), f"--port={port}", f"--drop={args.drop}", f"--slow={args.slow}"]
    process = await asyncio.create_subprocess_exec(*command, f"--seed={seed}")
    while process.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return process
        await asyncio.sleep(0.1)
    raise RuntimeError("the server does not start")


def check(batch: Samples, last: np.ndarray) -> np.ndarray:
    """Check that each valid step is the next of its episode; return the last of each column, -1 where there is none."""
    steps, done = batch.env.env_info["step"].numpy(), batch.env.done.numpy()
    for t, valid in enumerate(batch.valid.numpy()):
        goes_on = valid & (last >= 0)
        assert (steps[t][goes_on] == last[goes_on] + 1).all(), "a step is missing that is not marked"
        assert (steps[t][valid & ~goes_on] == 1).all(), "an episode has no beginning"
        last = np.where(valid & ~done[t], steps[t], -1)
    return last


async def main(args: argparse.Namespace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    sampler = AsyncCpuSampler(
        RemoteCartPole,
        env_kwargs={"port": port},
        agent=RandomAgent(),
        batch_T=args.T,
        batch_B=args.B,
        n_workers=args.workers,
        env_info_keys={"step": np.int64},
        step_timeout=args.step_timeout,
        max_worker_restarts=100_000,
        seed=0,
    )
    last, rows = np.full(args.B, -1), 0
    server = await start_server(port, args, 0)
    try:
        async with sampler:
            for k in range(args.batches):
                if args.kill and k == args.batches // 2:
                    server.kill()
                    await server.wait()
                    await asyncio.sleep(0.5)  # the sampler tries to reach it meanwhile
                    server = await start_server(port, args, 1)
                batch = await sampler.obtain_samples()
                last, rows = check(batch, last), rows + batch.valid.numel()
            done = sampler.statistics()
    finally:
        server.kill()
        await server.wait()
    causes = Counter(type(failure).__name__ for failure in done.failures)
    print(f"{done.env_steps} of {rows} rows are steps, {done.lost_steps} are marked: nothing else is missing")
    print(f"{done.episodes} episodes, {done.lost_episodes} more were lost; {done.restarts} connections: {dict(causes)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--T", type=int, default=32)
    parser.add_argument("--B", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step-timeout", type=float, default=1.0)
    parser.add_argument("--drop", type=float, default=0.001, help="share of the questions that break the connection")
    parser.add_argument("--slow", type=float, default=0.0005, help="share of the answers that take a minute")
    parser.add_argument("--kill", action="store_true", help="kill the server half-way, and start it again")
    asyncio.run(main(parser.parse_args()))
