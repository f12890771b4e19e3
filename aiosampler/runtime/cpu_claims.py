"""Telling other samplers on this machine which CPUs processes of one are placed on.

Two that place their processes alike, not knowing of each other, would share one CPU and leave another idle. A claim is
a socket that is bound to a name without a file, which only one process has at a time: the kernel takes it back however
that ends. Other users, and samplers in other network namespaces, are not seen.
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
        sockets: That are bound to their names.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        for each in sockets:
            keep_from_forks(each.fileno())

    def release(self) -> None:
        """Leave them to others; idempotent."""
        for each in self._sockets:
            forget(each.fileno())
            each.close()
        self._sockets = []


def claim_cpus(cpus: Iterable[int]) -> CpuClaim | None:
    """Claim all of these CPUs; None where one is another's, or the system has no such names."""
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
