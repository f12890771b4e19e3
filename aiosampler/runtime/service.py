"""The life of a process of a sampler: start, serve requests, close what is open, report what went wrong.

A parent that wants the process to end sends no more: the end of data is the request to close, and cannot be missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from aiosampler.runtime.channel import Channel, ChannelClosed
from aiosampler.runtime.isolation import end_with_parent, keep_from_forks
from aiosampler.runtime.log_records import tell_dropped
from aiosampler.runtime.report import Failure, Phase

if TYPE_CHECKING:
    import socket

    from aiosampler.interfaces import Service


class ServiceChannel:
    """The channel to the parent, as a service sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def receive(self) -> Any:
        """The next request.

        Raises:
            ChannelClosed: There will be none: the parent wants this process to end, or is gone.
        """
        return await self._channel.receive()

    def look(self) -> None:
        """Take in what has arrived, so that receiving it need not ask the event loop."""
        self._channel.read()

    def send(self, message: Any) -> None:
        """Answer.

        Raises:
            ChannelClosed: The parent is gone.
        """
        self._channel.send_now(message)

    def phase(self, name: str) -> None:
        """Tell what is being done on the way to being ready."""
        self._channel.send_now(Phase(name))


async def run_service(sock: socket.socket, service: Service) -> None:
    """Run a service to its end.

    Args:
        sock: This end of the control channel.
        service: What it does.
    """
    os.set_inheritable(sock.fileno(), False)
    keep_from_forks(sock.fileno())
    channel = Channel(sock)
    end_with_parent(sock, service.abort)

    def report(error: BaseException, *, closing: bool = False) -> bool:
        with contextlib.suppress(ChannelClosed):
            channel.send_now(Failure(service.describe(error), closing))
        return True

    failure: BaseException | None = None
    try:
        running = asyncio.ensure_future(service.run(ServiceChannel(channel)))  # owned: awaited here
        channel.on_end = running.cancel
        await running
    except ChannelClosed:
        pass  # told to end, or the parent is gone
    except asyncio.CancelledError as exc:
        if not channel.ended:  # else as above
            failure = exc
    except BaseException as exc:
        failure = exc
    # What failed is told before anything is closed, which may well hang after a failure.
    reported = failure is not None and report(failure)
    try:
        await service.aclose()
    except BaseException as exc:
        if not reported:
            report(exc, closing=True)
    tell_dropped()
    channel.close()
