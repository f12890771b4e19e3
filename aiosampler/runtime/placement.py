"""The CPUs that a process of ours runs on, the threads of torch in it, and whom it interrupts."""

import contextlib
import os
from collections.abc import Sequence


def set_cpus(cpus: Sequence[int] | None, torch_threads: int | None) -> None:
    """Have this process run on some CPUs, and torch in it use some threads.

    Args:
        cpus: Indices; None for those that it has.
        torch_threads: None where torch is not to be imported.
    """
    if torch_threads is not None:
        import torch

        torch.set_num_threads(torch_threads)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)


def give_way(pid: int = 0) -> None:
    """Have a process, by default this one, interrupt nobody when it is woken, where the system can do that.

    By default Linux does, for who has slept: a server that shares its CPU with the worker that it releases would not
    get away before the worker's time slice is over, while the other group waits for it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # it is denied
            if os.sched_getscheduler(pid) == os.SCHED_OTHER:
                os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def take_turns(pid: int) -> None:
    """Have a process that gave way interrupt others again, as this one does."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            if (os.sched_getscheduler(0), os.sched_getscheduler(pid)) == (os.SCHED_OTHER, os.SCHED_BATCH):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
