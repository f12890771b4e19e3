"""Separate states of the global random generators, for training and evaluation and for each group of workers.

The user's agents and environments draw from the global generators of Python, NumPy and torch, and of the device. Each
process keeps a state of them for training and one for evaluation (`RandomStreams`). If several groups act in one
process, their order is not fixed, so each group has states of its own (`GroupStream`), and so has one on a device.

Torch's generators are included if torch is loaded, which it is not in workers without an agent.
"""

from __future__ import annotations

import contextlib
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from aiosampler.runtime.forking import forking
from aiosampler.specs.seeding import Stream, stream_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiosampler.interfaces import DeviceGenerator

_ACCELERATORS = ("cuda", "xpu", "mtia")  # modules of torch that have generators of their own


class RandomStreams:
    """Seeds the global generators of Python, NumPy and torch in a child process; the state of training is active.

    Args:
        seed: The sampler's seed.
        first: Global index of the first environment of the worker or action server. Samplers that are parts of one may
            differ in how many workers they have, so ranks would not tell all of them apart.
        generation: How many processes had these environments before.
        acts: Whether the process has an agent. Workers without one use other streams than action servers of the same
            environments.
    """

    def __init__(self, seed: int, first: int, generation: int = 0, *, acts: bool = True) -> None:
        evaluation = Stream.EVAL_ACTION_NOISE if acts else Stream.EVAL_WORLD_NOISE
        training = Stream.ACTION_NOISE if acts else Stream.WORLD_NOISE
        seed_generators(stream_seed(seed, evaluation, first, generation))
        self._evaluation = _state()
        seed_generators(stream_seed(seed, training, first, generation))

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Activate the state of evaluation for the block, and save it afterwards for the next time."""
        training = _state()
        _set_state(self._evaluation)
        try:
            yield
        finally:
            self._evaluation = _state()
            _set_state(training)


class GroupStream:
    """The generator states of one group, in a process with torch; a context that activates them.

    It is entered at every step, so it must be fast. NumPy's bit generator is exchanged instead of copied, which drops
    its cached normal number in every step alike. Reading the state of Python's generator is the slowest part, so it is
    read only if a number that is drawn at the end shows that others were drawn before. In one of 2**32 cases that is
    missed, and the same numbers come again, in each run with this seed.

    Args:
        seed: Seed of the group's states.
        device: The generator of the device that the agent acts on, if it has one.
    """

    def __init__(self, seed: int, device: DeviceGenerator | None = None) -> None:
        import torch

        self._torch_generator = torch.default_generator
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._numpy = np.random.MT19937(seed)
        self._outer: Any = None  # NumPy's bit generator outside of the context
        self._python, self._next = _and_next(random.Random(seed))
        self._device_generator, self._device = device, None
        if device is not None:
            before = device.get_state()
            device.manual_seed(seed)
            self._device = device.get_state()
            device.set_state(before)

    def __enter__(self) -> None:
        """Activate the group's states."""
        self._torch_generator.set_state(self._torch)
        self._outer = get_bit_generator()
        set_bit_generator(self._numpy)
        random.setstate(self._python)
        if self._device_generator is not None:
            self._device_generator.set_state(self._device)

    def __exit__(self, *exc_info: object) -> None:
        """Save the group's states. The states of Python and torch are not restored, as nothing draws outside."""
        self._torch = self._torch_generator.get_state()
        set_bit_generator(self._outer)
        spare_normal = self._python[2] is not None  # the cached normal number may be all that was drawn
        if random.getrandbits(32) != self._next or spare_normal:
            self._python, self._next = _and_next(random)
        if self._device_generator is not None:
            self._device = self._device_generator.get_state()


def _and_next(generator: Any) -> tuple[Any, int]:
    """The state of a Python generator, and the number that it draws next."""
    return generator.getstate(), generator.getrandbits(32)


class SeparateGenerators:
    """States of the global generators for an in-process sampler; the user's own states are restored each time."""

    def __init__(self) -> None:
        self._ours: tuple[Any, ...] | None = None  # None: ours begin as a copy of the user's

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Activate our states for the block, and save them afterwards for the next time."""
        with forking:  # torch takes locks of its own
            before = _state()
            if self._ours is not None:
                _set_state(self._ours)
        try:
            yield
        finally:
            with forking:
                self._ours = _state()
                _set_state(before)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and restore them; in the user's process, by one thread at a time."""
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
        for accelerator in _in_use(torch):
            accelerator.manual_seed_all(seed)


def undrawn(seed: int) -> bool:
    """Whether nothing was drawn from the global generators since they were seeded with `seed`."""
    now = _state()
    seed_generators(seed)
    python, numpy, cpu, devices = _state()
    _set_state(now)
    return (
        python == now[0]
        and all(np.array_equal(one, other) for one, other in zip(numpy, now[1], strict=True))
        and (cpu is None or cpu.equal(now[2]))
        and all(
            state.equal(other)
            for (_, states), (_, others) in zip(devices, now[3], strict=True)
            for state, other in zip(states, others, strict=True)
        )
    )


def _in_use(torch: Any) -> list[Any]:
    """Torch modules of the initialised accelerators; others would store a seed until they are initialised."""
    modules = (getattr(torch, name, None) for name in _ACCELERATORS)
    return [module for module in modules if module is not None and module.is_initialized()]


def _state() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    if torch is None:
        return random.getstate(), np.random.get_state(), None, ()
    devices = [(module, module.get_rng_state_all()) for module in _in_use(torch)]
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def _set_state(state: tuple[Any, ...]) -> None:
    python, numpy, cpu, devices = state
    random.setstate(python)
    np.random.set_state(numpy)
    if cpu is not None:
        sys.modules["torch"].set_rng_state(cpu)
    for module, states in devices:
        module.set_rng_state_all(states)
