"""How long the event loop of the service keeps clients waiting while it samples at full speed: times of pings.

    uvicorn --app-dir examples service.app:app
    python examples/service/loop_lag.py --seconds 10

It starts a run if there is none, and ends what it has started. A ping is answered by the server's event loop as soon as
that turns, so its time is that loop's lag, and the way there and back, which an idle service shows.
"""

import argparse
import asyncio
import json
import time
import urllib.request
from typing import Any

import numpy as np
from websockets.asyncio.client import connect


def ask(url: str, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError as exc:
        raise SystemExit(f"the service at {url} does not do that: {exc}; is it running?") from None


async def ping(url: str, seconds: float) -> str:
    times, began = [], time.perf_counter()
    async with connect(f"{url}/live", proxy=None) as socket:
        reading = asyncio.create_task(read(socket))
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            await (await socket.ping())
            times.append(time.perf_counter() - asked)
            await asyncio.sleep(0.005)
        reading.cancel()
    middle, late, latest = np.percentile(times, [50, 99, 100]) * 1e3
    return f"{len(times)} pings: median {middle:.2f} ms, 99th percentile {late:.2f} ms, longest {latest:.2f} ms"


async def read(socket: Any) -> None:
    async for _ in socket:
        pass


async def main(args: argparse.Namespace) -> None:
    run = f"{args.url}/run"
    live = args.url.replace("http", "ws", 1)
    starts = (await asyncio.to_thread(ask, run, "GET"))["state"] not in ("starting", "running")
    if starts:
        print(f"idle: {await ping(live, args.seconds)}", flush=True)
        settings = {"agent": args.agent, "sampler": args.sampler, "n_workers": args.workers, "cpus": args.cpus}
        await asyncio.to_thread(ask, run, "POST", settings)
    while (look := await asyncio.to_thread(ask, run, "GET"))["state"] == "starting" or not look.get("steps_per_second"):
        if look["state"] == "failed":
            raise SystemExit(look["message"])
        await asyncio.sleep(0.1)
    print(f"sampling: {await ping(live, args.seconds)}", flush=True)
    print(f"{(await asyncio.to_thread(ask, run, 'GET'))['steps_per_second']:,.0f} steps per second meanwhile")
    if starts:
        await asyncio.to_thread(ask, run, "DELETE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--agent", choices=["random", "actor-critic"], default="random")
    parser.add_argument("--sampler", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=int, help="that the sampler keeps to, so that the event loop has the others")
    asyncio.run(main(parser.parse_args()))
