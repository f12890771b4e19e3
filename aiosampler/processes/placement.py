"""Putting a process of ours on its CPUs, and torch in it on its threads."""

import os

import torch

from aiosampler.affinity import Affinity


def place(affinity: Affinity | None) -> None:
    """Apply an affinity to this process; None means one thread on the CPUs that the process has."""
    torch.set_num_threads(1 if affinity is None else affinity.torch_threads)
    if affinity is not None and affinity.cpus is not None:
        os.sched_setaffinity(0, affinity.cpus)
