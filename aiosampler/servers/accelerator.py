"""One interface for the devices of torch (`torch.cuda`, `torch.xpu`, ...): streams, events, generators, graphs.

These modules have the same functions, except for the names of graphs. The tests have a module of their own, which does
queued work as late as possible.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GRAPHS = ("CUDAGraph", "XPUGraph", "MTIAGraph")
_NEEDED = ("Stream", "Event", "stream", "synchronize", "device_count", "get_rng_state", "set_rng_state")

log = logging.getLogger(__name__)


class Accelerator:
    """One device, whose work is queued on streams.

    Args:
        device: The torch device of its tensors.
        module: The module of torch for devices of this kind.
    """

    def __init__(self, device: torch.device, module: Any) -> None:
        self.device, self._module = device, module
        if hasattr(module, "set_device"):
            module.set_device(device)

    def new_stream(self) -> Any:
        """A new stream, besides the default one."""
        return self._module.Stream(self.device)

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which work is queued on `stream`."""
        context: contextlib.AbstractContextManager[Any] = self._module.stream(stream)
        return context

    def new_event(self) -> Any:
        """A new event: a mark in a stream, which shows whether and when it was reached."""
        return self._module.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Block this thread until all queued work is done."""
        self._module.synchronize(self.device)

    def host_like(self, leaf: torch.Tensor) -> torch.Tensor:
        """A tensor like `leaf` in pinned memory of the host, to which the device can copy asynchronously."""
        return torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=self.device.type != "cpu")

    def pin(self, first: Any, nbytes: int) -> Callable[[], object]:
        """Register the arena as pinned memory, if possible, so that the device copies from it directly.

        Args:
            first: The first array of the arena.
            nbytes: Size of the arena from there on, in bytes.

        Returns:
            A function that undoes it, after waiting for unfinished copies; call it before the arena is unmapped.
        """
        if not hasattr(self._module, "cudart"):
            return self.synchronize
        runtime, address = self._module.cudart(), first.ctypes.data
        result = runtime.cudaHostRegister(address, nbytes, 0)
        if int(result) != 0:
            log.warning("the arena cannot be registered as pinned memory (%s); copies to the device are slower", result)
            return self.synchronize

        def unpin() -> None:
            self.synchronize()
            runtime.cudaHostUnregister(address)

        return unpin

    # The random generator of the device: its state is read when work is queued, not when it is done

    def manual_seed(self, seed: int) -> None:
        """Seed the generator of the device, which must be the current device of this process."""
        self._module.manual_seed(seed)

    def get_state(self) -> torch.Tensor:
        """The state of the generator of the device."""
        state: torch.Tensor = self._module.get_rng_state(self.device)
        return state

    def set_state(self, state: torch.Tensor) -> None:
        """Set the state of the generator of the device."""
        self._module.set_rng_state(state, self.device)

    # Graphs

    @property
    def has_graphs(self) -> bool:
        """Whether queued work can be captured as a graph."""
        return any(hasattr(self._module, name) for name in _GRAPHS)

    @contextlib.contextmanager
    def capture(self, stream: Any) -> Iterator[Any]:
        """Capture what the block queues on `stream` instead of running it; yields a graph with a method `replay`.

        Raises:
            Exception: Something in the block cannot be captured; the class depends on what it is.
        """
        graph = next(getattr(self._module, name) for name in _GRAPHS if hasattr(self._module, name))()
        generators = getattr(self._module, "default_generators", ())
        generator = generators[self.device.index or 0] if generators else None
        spare = generator.clone_state() if generator is not None else None
        try:
            with self._module.graph(graph, stream=stream):
                yield graph
        except Exception:
            if generator is not None:  # or it would wait forever for the end of the capture
                generator.graphsafe_set_state(spare)
            raise


def missing(module: Any) -> list[str]:
    """Names of the functions that a module of torch lacks, and an `Accelerator` needs."""
    return [name for name in _NEEDED if not hasattr(module, name)]


def accelerator(name: str) -> Accelerator:
    """The `Accelerator` for a device name, in this process."""
    device = torch.device(name)
    return Accelerator(device, getattr(torch, device.type))
