"""Putting a process of ours on its CPUs, and torch in it on its threads."""

import contextlib
import os
from collections.abc import Sequence


def place(cpus: Sequence[int] | None, torch_threads: int | None) -> None:
    """Put this process on `cpus`, None for those that it has, and give torch its threads, None without torch."""
    if torch_threads is not None:
        import torch

        torch.set_num_threads(torch_threads)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)


def give_way() -> None:
    """Do not interrupt who runs on a CPU when this process is woken there, where the system can do that.

    By default Linux does, for who has slept: a server that shares its CPU with the worker that it releases would not
    get away before the worker's time slice is over, while the other group waits for it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # it is denied
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
