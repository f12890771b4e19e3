"""The process in which environment and agent are tried out.

It is forked from the sampler process, which has imported all but the user's packages, and ends when the answer is
there: what the example environment does to its process (environment variables, working directory, signal handlers,
seeds, a lock on something there is one of) ends with it, before any other environment is built.
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

#: The part of the sampler process that tries out; the user need not know that it is a process of its own.
NAME = "sampler"


async def try_out(options: Options, phase: Callable[[str], None]) -> Probed:
    """Try out environment and agent in a process of their own, which has ended when this returns.

    Args:
        options: The sampler's arguments.
        phase: Told what is being done.

    Raises:
        SamplerError: One of them failed or takes too long, or their process died.
    """
    method = "fork" if sys.platform == "linux" else options.start_method.replace("forkserver", "spawn")

    def on_phase(named: str) -> None:
        phase(named.removeprefix(f"{NAME}: "))

    trial = ChildHandle(trial_main, (), name=NAME, start_method=method, on_phase=on_phase)
    grace = 0.0  # of what is not wanted any more
    try:
        await trial.send(options)
        probed: Probed = await trial.receive(options.start_timeout)
        grace = TRIAL_CLOSE_S
        return probed
    finally:
        await trial.stop(grace)


async def trial_main(sock: socket.socket) -> None:
    """Run the process.

    Args:
        sock: This end of the control channel.
    """
    await run_service(sock, _Trial())


class _Trial:
    async def run(self, parent: ServiceChannel) -> None:
        parent.phase(UNPACKING)
        options: Options = await parent.receive()
        parent.send(await outside_loop(probe, options, parent.phase))
        await parent.receive()  # until there is no more

    def abort(self) -> None:
        """Trying out takes no steps to end at."""

    def describe(self, error: BaseException) -> SamplerError:
        return describe(error, NAME, starting=True)

    async def aclose(self) -> None:
        """All is closed."""
