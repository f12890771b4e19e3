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
    """Have who runs on a CPU go on there when this process is woken, where the system can do that.

    Linux interrupts who runs, by default, for who has slept: the server of two groups would often have to wait, for the
    time slice of a worker that it has just released to end, before it can serve the other group.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):  # it was denied
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
