"""What memory has no room for is refused, from the numbers alone."""

import numpy as np
import pytest

from aiosampler import ArenaError, BatchSpec, ResourceError
from aiosampler.memory import room
from aiosampler.specs.arrays import ArraySpec


def test_batches_and_workers_beyond_the_free_memory_are_refused(monkeypatch):
    monkeypatch.setattr(room, "available_memory", lambda: 10**6)
    image = ArraySpec((100, 100), np.dtype(np.uint8))
    room.check_batches(BatchSpec(T=4, B=2))
    with pytest.raises(ArenaError, match=r"batch_T=4 steps of batch_B=10000000 environments need [\d,]+ bytes"):
        room.check_batches(BatchSpec(T=4, B=10**7))
    with pytest.raises(ArenaError, match=r"batch_T=10{30} .*and 1,000,000 bytes are free; use a smaller batch_T"):
        room.check_batches(BatchSpec(T=10**30, B=2))  # beyond 64 bits
    room.check_batches(BatchSpec(T=4, B=9), image)
    with pytest.raises(ArenaError):
        room.check_batches(BatchSpec(T=4, B=10), {"image": image})
    with pytest.raises(ResourceError, match=r"n_workers=100 processes need .* use fewer workers"):
        room.check_workers(100)
    monkeypatch.setattr(room, "available_memory", lambda: None)  # the system does not tell
    room.check_batches(BatchSpec(T=4, B=10**7))
    room.check_workers(100)
