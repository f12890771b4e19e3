"""A web service that owns a sampler: started, changed and stopped by REST, watched by WebSocket, with one page for it.

    pip install -e '.[service]'
    uvicorn --app-dir examples service.app:app --timeout-graceful-shutdown 5

Then open http://127.0.0.1:8000. It trains in the background; http://127.0.0.1:8000/metrics is for Prometheus, and
http://127.0.0.1:8000/docs has all requests. It is meant for your own machine: nobody is asked who they are. So it
listens on loopback, answers by that name alone, and no request makes it import, unpickle or run anything: worlds and
agents come from the lists in `catalog`. `SERVICE_HOSTS="name,other"` has it answer by other names, behind a proxy that
asks.
"""

import asyncio
import contextlib
import gc
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import torch
from fastapi import (
    Body,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection

from aiosampler import ConfigError, SamplerError
from service.catalog import Settings
from service.control import Conflict, Control
from service.telemetry import PERIOD_S, Metrics, Telemetry

HOSTS = ["127.0.0.1", "localhost", *filter(None, os.environ.get("SERVICE_HOSTS", "").split(","))]
MOST_READERS = 64
SEND_S = 10.0  # a reader that has not taken a message by then is let go


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own the sampler: whatever ends the service ends it in good order."""
    torch.set_num_threads(1)  # the model is small, and the CPUs are the workers'
    sys.setswitchinterval(0.001)  # so soon a thread that learns hands the interpreter to the event loop
    gc.collect()
    gc.freeze()  # or looking through all that was imported would stop the event loop for a tenth of a second at times
    async with asyncio.TaskGroup() as tasks:
        control = app.state.control = Control(tasks)
        telemetry = app.state.telemetry = Telemetry(control)
        app.state.registry = CollectorRegistry()
        app.state.registry.register(Metrics(telemetry))
        app.state.readers = 0
        watching = tasks.create_task(telemetry.watch(), name="telemetry")
        try:
            yield
        finally:
            await control.stop()
            watching.cancel()


def from_own_page(connection: HTTPConnection) -> None:
    """Refuse what another page has a browser ask: it may send requests, and open a WebSocket, wherever it likes."""
    origin = connection.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != connection.headers.get("host"):
        if connection.scope["type"] == "websocket":
            raise WebSocketException(1008, "from another page")
        raise HTTPException(403, "this was asked by another page than the service's own")


app = FastAPI(title="aiosampler", lifespan=lifespan, dependencies=[Depends(from_own_page)])
app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)  # else any page could be made to reach it by a name


def refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)


@app.exception_handler(RequestValidationError)
@app.exception_handler(ValidationError)
async def wrong_values(_: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
    sentences = []
    for each in error.errors():
        name = ".".join(str(part) for part in each["loc"] if part != "body")
        sentences.append(f"{name or 'the body'}: {each['msg']}, got {str(each.get('input'))[:100]!r}")
    return refused(422, "; ".join(sentences))


@app.exception_handler(ConfigError)
async def does_not_fit(_: Request, error: ConfigError) -> JSONResponse:
    return refused(422, str(error))


@app.exception_handler(Conflict)
async def conflict(_: Request, error: Conflict) -> JSONResponse:
    return refused(409, str(error))


@app.exception_handler(SamplerError)
async def failed(_: Request, error: SamplerError) -> JSONResponse:
    return refused(503, f"{type(error).__name__}: {error}")


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.get("/run")
async def look(request: Request) -> dict[str, Any]:
    """How the run is."""
    return now(request)


@app.post("/run", status_code=202)
async def start(request: Request, settings: Annotated[Settings, Body()]) -> dict[str, Any]:
    """Start a sampler, and training on its batches."""
    await request.app.state.control.start(settings)
    return now(request)


@app.patch("/run", status_code=202)
async def change(request: Request, changes: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
    """Go on with other settings, and what was learned, where it fits. All but the learning rate takes a new sampler."""
    await request.app.state.control.change(changes)
    return now(request)


@app.delete("/run")
async def stop(request: Request) -> dict[str, Any]:
    """End the run; answered when all of its processes have ended."""
    await request.app.state.control.stop()
    return now(request)


def now(request: Request) -> dict[str, Any]:
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.refresh()
    return telemetry.look


class Asked(BaseModel):
    """An evaluation that is asked for."""

    model_config = ConfigDict(extra="forbid")
    episodes: Annotated[int, Field(ge=1, le=1000)] = 20


@app.post("/evaluation")
async def evaluate(request: Request, asked: Annotated[Asked, Body()]) -> Response:
    """Run some episodes with the newest parameters. Who leaves before they have ended cancels them."""
    evaluating = asyncio.create_task(request.app.state.control.evaluate(asked.episodes))  # owned: awaited below
    leaving = asyncio.create_task(left(request))
    try:
        await asyncio.wait((evaluating, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not evaluating.done():
            return Response(status_code=499)  # which nobody will read
        found = evaluating.result()
    finally:
        evaluating.cancel()
        leaving.cancel()
        await asyncio.wait((evaluating, leaving))
    returns = [info.Return for info in found]
    mean = sum(returns) / len(returns) if returns else None
    return JSONResponse({"episodes": len(found), "cut": len(found.cut), "mean_return": mean, "returns": returns})


async def left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@app.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@app.websocket("/live")
async def live(socket: WebSocket) -> None:
    """Send the history of the run, then the newest look whenever it has changed and the reader has taken the last."""
    if socket.app.state.readers >= MOST_READERS:
        await socket.close(1013, f"{MOST_READERS} readers are connected already")
        return
    await socket.accept()
    socket.app.state.readers += 1
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(socket))
            tasks.create_task(receive(socket))
    except* (WebSocketDisconnect, TimeoutError):
        pass  # the reader has left, or takes nothing: the server drops the connection when this returns
    finally:
        socket.app.state.readers -= 1


async def send(socket: WebSocket) -> None:
    telemetry: Telemetry = socket.app.state.telemetry
    number, text = telemetry.latest.number, telemetry.latest.text
    await deliver(socket, f'{{"history": [{",".join(telemetry.history)}]}}')
    while True:
        await deliver(socket, text)
        await telemetry.latest.after(number)
        await asyncio.sleep(random.random() * PERIOD_S / 2)  # or one turn of the event loop would serve all readers
        number, text = telemetry.latest.number, telemetry.latest.text


async def deliver(socket: WebSocket, text: str) -> None:
    async with asyncio.timeout(SEND_S):
        await socket.send_text(text)


async def receive(socket: WebSocket) -> None:
    while True:  # a reader has nothing to say; it is heard so that its leaving is
        if (await socket.receive())["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
