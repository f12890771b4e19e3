"""The CPUs of a process, the number of torch's threads in it, and whether it preempts others when it wakes."""

import contextlib
import os
from collections.abc import Sequence


def set_cpus(cpus: Sequence[int] | None, torch_threads: int | None) -> None:
    """Restrict this process to some CPUs, and torch in it to some threads.

    Args:
        cpus: Indices; None for those that it has.
        torch_threads: How many; None leaves torch alone, and does not import it.
    """
    if torch_threads is not None:
        import torch

        torch.set_num_threads(torch_threads)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)


def give_way(pid: int = 0) -> None:
    """Make a process, by default this one, not preempt others when it wakes (SCHED_BATCH), where the system has that.

    By default, Linux lets a process that has slept preempt the one that runs. A server that wakes a worker on its own
    CPU would then be kept from its next task until the worker's time slice is over.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # the system does not permit it
            if os.sched_getscheduler(pid) == os.SCHED_OTHER:
                os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def take_turns(pid: int) -> None:
    """Undo `give_way`, if this process has not given way itself."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            if (os.sched_getscheduler(0), os.sched_getscheduler(pid)) == (os.SCHED_OTHER, os.SCHED_BATCH):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
