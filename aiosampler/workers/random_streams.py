"""Two states for the random generators of a process, so that evaluation draws nothing that training would.

torch's generator is among them where torch is loaded, which it is not in workers without an agent.
"""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from aiosampler.runtime.forking import forking
from aiosampler.specs.seeding import Stream, stream_seed


class RandomStreams:
    """Seeds the global generators of Python, NumPy and torch in a process of ours; training's state is in force.

    Args:
        seed: Of the sampler.
        rank: Of the process among those that act.
        generation: How many processes had this rank before.
    """

    def __init__(self, seed: int, rank: int, generation: int = 0) -> None:
        seed_generators(stream_seed(seed, Stream.EVAL_ACTION_NOISE, rank, generation))
        self._evaluation = _state()
        seed_generators(stream_seed(seed, Stream.ACTION_NOISE, rank, generation))

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Put evaluation's state in force, and keep how far it got for the next time."""
        training = _state()
        _set_state(self._evaluation)
        try:
            yield
        finally:
            self._evaluation = _state()
            _set_state(training)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and put them back: for the user's process, by one thread at a time."""
    with forking:  # torch takes locks of its own
        before = _state()
        seed_generators(seed)
        try:
            yield
        finally:
            _set_state(before)


def seed_generators(seed: int) -> None:
    """Seed the global generators of this process."""
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # or a seed would be noted for when it is, which nothing could take back
            torch.cuda.manual_seed_all(seed)


def _state() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    cuda = torch and torch.cuda.is_initialized() and torch.cuda.get_rng_state_all()
    return random.getstate(), np.random.get_state(), torch and torch.get_rng_state(), cuda


def _set_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch = sys.modules.get("torch")
    if torch is not None and state[2] is not None:
        torch.set_rng_state(state[2])
        if state[3]:
            torch.cuda.set_rng_state_all(state[3])
