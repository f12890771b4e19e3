"""What every child process does: start, serve requests, close what is open, report what failed.

A parent ends a child by shutting down its side of the channel: the end of data is the request to close.
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

    from aiosampler.interfaces import Mail, Service


class ServiceChannel:
    """The channel to the parent: what a service may do with it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def receive(self) -> Any:
        """The next request.

        Raises:
            ChannelClosed: There will be none: the parent wants this process to end, or has ended itself.
        """
        return await self._channel.receive()

    def send(self, message: Any) -> None:
        """Send an answer.

        Raises:
            ChannelClosed: The parent has ended.
        """
        self._channel.send_now(message)

    def attach(self, mail: Mail) -> None:
        """Have some messages sent and received by `mail`."""
        self._channel.attach(mail)

    def phase(self, name: str) -> None:
        """Report the phase of the start that begins now."""
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
        pass  # asked to close, or the parent has ended
    except asyncio.CancelledError as exc:
        if not channel.ended:  # otherwise as above
            failure = exc
    except BaseException as exc:
        failure = exc
    # A failure is reported before anything is closed, since closing may hang after a failure.
    reported = failure is not None and report(failure)
    try:
        await service.aclose()
    except BaseException as exc:
        if not reported:
            report(exc, closing=True)
    tell_dropped()
    channel.close()
