"""A device beside the CPU: all that the stage on a device uses of torch's module for its kind.

The modules (`torch.cuda`, `torch.xpu`, ...) agree in streams, events, generators and graphs, but for the names of the
latter. Tests have a module of their own, which does what is queued as late as it may.
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
        device: Where its tensors are.
        module: Of torch, for devices of this kind.
    """

    def __init__(self, device: torch.device, module: Any) -> None:
        self.device, self._module = device, module
        if hasattr(module, "set_device"):
            module.set_device(device)

    def new_stream(self) -> Any:
        """A queue of its own, beside the default one."""
        return self._module.Stream(self.device)

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Queue what the block does on `stream`."""
        context: contextlib.AbstractContextManager[Any] = self._module.stream(stream)
        return context

    def new_event(self) -> Any:
        """A mark in a queue that tells when it was reached."""
        return self._module.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Wait until all that was queued is done; blocks this thread."""
        self._module.synchronize(self.device)

    def host_like(self, leaf: torch.Tensor) -> torch.Tensor:
        """Memory of the host for what `leaf` has, pinned, so that copies to it need not be waited for."""
        return torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=self.device.type != "cpu")

    def pin(self, first: Any, nbytes: int) -> Callable[[], object]:
        """Register the arena as pinned memory, if that can be done, which the device copies from without a detour.

        Args:
            first: The first array of the arena.
            nbytes: How much of the arena from there on.

        Returns:
            What undoes it, to be called before the arena is unmapped. It waits for copies that are under way.
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

    # The random generator of the device: it is read when work is queued, not when it is done

    def manual_seed(self, seed: int) -> None:
        """Seed the generator of the device, which is the current one of this process."""
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
        """Capture what the block queues on `stream`, instead of doing it; yields the graph, which has `replay`.

        Raises:
            Exception: Something in the block cannot be captured; what kind of exception depends on it.
        """
        graph = next(getattr(self._module, name) for name in _GRAPHS if hasattr(self._module, name))()
        generators = getattr(self._module, "default_generators", ())
        generator = generators[self.device.index or 0] if generators else None
        spare = generator.clone_state() if generator is not None else None
        try:
            with self._module.graph(graph, stream=stream):
                yield graph
        except Exception:
            if generator is not None:  # it would wait for the end of the capture for ever
                generator.graphsafe_set_state(spare)
            raise


def missing(module: Any) -> list[str]:
    """What a module of torch for a kind of device lacks that an `Accelerator` needs."""
    return [name for name in _NEEDED if not hasattr(module, name)]


def accelerator(name: str) -> Accelerator:
    """The device of this name, for this process."""
    device = torch.device(name)
    return Accelerator(device, getattr(torch, device.type))
