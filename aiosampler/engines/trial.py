"""The process in which environment and agent are tried out.

It is forked from the sampler process, before that imports any of the user's packages, and ends when the trial is done.
So whatever the example environment changes in its process (environment variables, working directory, signal handlers,
seeds), or holds a lock on, is undone before any other environment is built.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aiosampler.engines.probe import probe
from aiosampler.runtime.child_handle import ChildHandle
from aiosampler.runtime.deadlines import TRIAL_CLOSE_S
from aiosampler.runtime.outside_loop import outside_loop
from aiosampler.runtime.service import ServiceChannel, run_service
from aiosampler.workers.failures import describe
from aiosampler.workers.messages import UNPACKING, Probed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from aiosampler.errors import SamplerError
    from aiosampler.options import Options

#: The name in errors: users need not know that it is not the sampler process itself.
NAME = "sampler"


async def try_out(options: Options, phase: Callable[[str], None]) -> Probed:
    """Try out environment and agent in a new process, which has ended when this returns.

    Args:
        options: The sampler's arguments.
        phase: Called with the phases of the trial.

    Raises:
        SamplerError: One of them failed or took too long, or the process died.
    """
    method = "fork" if sys.platform == "linux" else options.start_method.replace("forkserver", "spawn")

    def on_phase(named: str) -> None:
        phase(named.removeprefix(f"{NAME}: "))

    trial = ChildHandle(trial_main, (), name=NAME, start_method=method, on_phase=on_phase)
    grace = 0.0  # if this is cancelled or fails, the process is killed at once
    try:
        await trial.send(options)
        probed: Probed = await trial.receive(options.start_timeout)
        grace = TRIAL_CLOSE_S
        return probed
    finally:
        await trial.stop(grace)


async def trial_main(sock: socket.socket) -> None:
    """Run the process of a trial.

    Args:
        sock: This end of the control channel.
    """
    await run_service(sock, _Trial())


class _Trial:
    async def run(self, parent: ServiceChannel) -> None:
        parent.phase(UNPACKING)
        options: Options = await parent.receive()
        parent.send(await outside_loop(probe, options, parent.phase))
        await parent.receive()  # until the parent closes its end

    def abort(self) -> None:
        """Does nothing: a trial ends by itself."""

    def describe(self, error: BaseException) -> SamplerError:
        return describe(error, NAME, starting=True)

    async def aclose(self) -> None:
        """Does nothing: the trial has closed its environment."""
