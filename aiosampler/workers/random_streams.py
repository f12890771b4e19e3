"""Keeping the random draws of agents and environments apart: training from evaluation, and one group from another.

What users draw from are the global generators of Python, NumPy and torch, and of the device. Each process has a state
of them for training and one for evaluation (`RandomStreams`). Where several groups share a process, the order in which
they act is not fixed, so each has states of its own (`GroupStream`); so has what acts on a device.

torch's generators are among them where torch is loaded, which it is not in workers without an agent.
"""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from aiosampler.runtime.forking import forking
from aiosampler.specs.seeding import Stream, stream_seed

_ACCELERATORS = ("cuda", "xpu", "mtia")  # modules of torch that have generators of their own


class DeviceGenerator(Protocol):
    """The random generator of a device."""

    def manual_seed(self, seed: int) -> object:
        """Begin a stream."""

    def get_state(self) -> Any:
        """How far it got."""

    def set_state(self, state: Any) -> object:
        """Go on from there."""


class RandomStreams:
    """Seeds the global generators of Python, NumPy and torch in a process of ours; training's state is in force.

    Args:
        seed: Of the sampler.
        rank: Of the process among those that act.
        generation: How many processes had this rank before.
        acts: Whether an agent draws from them. Ranks of workers without one are counted apart from those of action
            servers, so their streams are others.
    """

    def __init__(self, seed: int, rank: int, generation: int = 0, *, acts: bool = True) -> None:
        evaluation = Stream.EVAL_ACTION_NOISE if acts else Stream.EVAL_WORLD_NOISE
        training = Stream.ACTION_NOISE if acts else Stream.WORLD_NOISE
        seed_generators(stream_seed(seed, evaluation, rank, generation))
        self._evaluation = _state()
        seed_generators(stream_seed(seed, training, rank, generation))

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


class GroupStream:
    """The draws of one group in a process with torch; a context that puts them in force for calls of its agent.

    It is entered at every step, so it must be cheap. NumPy's generator is exchanged, not copied. Its spare normal
    number is lost thereby, in every step alike. Reading the state of Python's generator takes longer than all the
    rest, so it is only read if a number that is drawn at the end shows that others were drawn before. If one of
    2**32 coincidences hides that, the same numbers come again, and do so in each run with this seed.

    Args:
        seed: Of the group's draws.
        device: The generator of the device that the agent acts on, if it has one.
    """

    def __init__(self, seed: int, device: DeviceGenerator | None = None) -> None:
        import torch

        self._torch_generator = torch.default_generator
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._numpy = np.random.MT19937(seed)
        self._outer: Any = None  # NumPy's generator outside
        self._python, self._next = _and_next(random.Random(seed))
        self._device_generator, self._device = device, None
        if device is not None:
            before = device.get_state()
            device.manual_seed(seed)
            self._device = device.get_state()
            device.set_state(before)

    def __enter__(self) -> None:
        """Put the group's states in force."""
        self._torch_generator.set_state(self._torch)
        self._outer = get_bit_generator()
        set_bit_generator(self._numpy)
        random.setstate(self._python)
        if self._device_generator is not None:
            self._device_generator.set_state(self._device)

    def __exit__(self, *exc_info: object) -> None:
        """Keep how far they got. Outside, the states of Python and torch are nobody's."""
        self._torch = self._torch_generator.get_state()
        set_bit_generator(self._outer)
        spare_normal = self._python[2] is not None  # it may be all that was taken
        if random.getrandbits(32) != self._next or spare_normal:
            self._python, self._next = _and_next(random)
        if self._device_generator is not None:
            self._device = self._device_generator.get_state()


def _and_next(generator: Any) -> tuple[Any, int]:
    """The state of a generator of Python's, and the number that it draws next."""
    return generator.getstate(), generator.getrandbits(32)


class SeparateGenerators:
    """States of the global generators for code of ours in the user's process, whose own are put back each time."""

    def __init__(self) -> None:
        self._ours: tuple[Any, ...] | None = None  # the first time, the user's are as good as any

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Put our states in force for the block, and keep how far they got for the next time."""
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
        for accelerator in _in_use(torch):
            accelerator.manual_seed_all(seed)


def undrawn(seed: int) -> bool:
    """Whether nobody has drawn from the global generators since they were seeded with `seed`."""
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
    """Modules of the accelerators that are initialised; a seed for others would be noted, and not be taken back."""
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
