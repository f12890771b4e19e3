"""Claims on CPUs, so that two samplers on one machine do not place their processes on the same ones.

Without them both could share one CPU and leave another idle. A claim is a Unix socket that is bound to an abstract
name: only one process can hold it, and the kernel releases it when that process ends. Samplers of other users, and in
other network namespaces, are not seen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING

from aiosampler.runtime.isolation import forget, keep_from_forks

if TYPE_CHECKING:
    from collections.abc import Iterable


class CpuClaim:
    """CPUs that are claimed, until they are released.

    Args:
        sockets: One for each CPU, bound to its name.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        for each in sockets:
            keep_from_forks(each.fileno())

    def release(self) -> None:
        """Give up the claim; idempotent."""
        for each in self._sockets:
            forget(each.fileno())
            each.close()
        self._sockets = []


def claim_cpus(cpus: Iterable[int]) -> CpuClaim | None:
    """Claim all of these CPUs; None if another process claims one of them, or the system has no abstract names."""
    if sys.platform != "linux":
        return None
    with contextlib.ExitStack() as claimed:
        sockets = []
        for cpu in cpus:
            try:
                sockets.append(claimed.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
                sockets[-1].bind(f"\0aiosampler-{os.getuid()}-cpu-{cpu}")
            except OSError:
                return None
        claimed.pop_all()
    return CpuClaim(sockets)
