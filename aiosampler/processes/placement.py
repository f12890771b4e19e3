"""Putting a process of ours on its CPUs, and torch in it on its threads."""

import os
from collections.abc import Sequence


def place(cpus: Sequence[int] | None, torch_threads: int | None) -> None:
    """Put this process on `cpus`, None for those that it has, and give torch its threads, None without torch."""
    if torch_threads is not None:
        import torch

        torch.set_num_threads(torch_threads)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
