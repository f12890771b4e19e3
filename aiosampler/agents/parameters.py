"""Publication of parameters through the arena, without a lock and never torn.

One process publishes, R processes adopt. There are R + 2 buffers, so one is always free to write to: it is neither the
latest nor one that a reader has named as the one it copies from. Whoever is killed, at whatever point, leaves the
others able to go on: a half-written buffer never becomes the latest, and a reader that is gone keeps one buffer named.

=================  ========  ===================================================================
field              writer    meaning
=================  ========  ===================================================================
latest             user      index of the newest complete buffer
reading[r]         reader r  1 + index of the buffer that reader r is copying from, 0 for none
begun[i]           user      number of writes to buffer i that have begun
ended[i]           user      number of writes to buffer i that are complete
version[i]         user      policy version in buffer i
=================  ========  ===================================================================

A reader names a buffer, looks again whether it still is the latest, copies, and finally checks that no write to it has
begun meanwhile. The last check makes the copy right even if the writer missed the name by nanoseconds; it retries then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.errors import ConfigError
from aiosampler.memory.layout import ALIGNMENT
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

if TYPE_CHECKING:
    from torch import nn

    from aiosampler.specs.trees import Tree


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter or buffer of a module, and where it lies in a buffer of the store."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers of `module` by name."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def parameter_specs(module: nn.Module | None) -> tuple[ParameterSpec, ...]:
    """The specs of all parameters and buffers of `module`; none without a module."""
    specs, offset = [], 0
    for name, tensor in {} if module is None else named_tensors(module).items():
        nbytes = tensor.numel() * tensor.element_size()
        specs.append(ParameterSpec(name, tuple(tensor.shape), tensor.dtype, offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(specs)


def store_specs(parameters: tuple[ParameterSpec, ...], n_readers: int) -> Tree:
    """The arrays of a store in the arena."""
    nbytes = parameters[-1].offset + parameters[-1].nbytes if parameters else 0
    int64, uint8 = np.dtype(np.int64), np.dtype(np.uint8)
    n_buffers = n_readers + 2
    return {
        "latest": ArraySpec((1,), int64),
        "reading": ArraySpec((n_readers,), int64),
        "begun": ArraySpec((n_buffers,), int64),
        "ended": ArraySpec((n_buffers,), int64),
        "version": ArraySpec((n_buffers,), int64),
        "buffers": ArraySpec((n_buffers, nbytes), uint8),
        "adopted": ArraySpec((nbytes,), uint8),
        "adopted_version": ArraySpec((1,), int64),
    }


class ParameterStore:
    """One process's end of the store.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
        parameters: Specs of the tensors.
        reader: Index of this reader; None in the process that publishes, and where another process adopts.
    """

    def __init__(self, arrays: Tree, parameters: tuple[ParameterSpec, ...], reader: int | None = None) -> None:
        self._parameters = parameters
        self._reader = reader
        self._latest = memoryview(arrays["latest"])
        self._reading = memoryview(arrays["reading"])
        self._begun = memoryview(arrays["begun"])
        self._ended = memoryview(arrays["ended"])
        self._version = memoryview(arrays["version"])
        self._buffers: Any = arrays["buffers"]
        self._adopted_version = memoryview(arrays["adopted_version"])
        self._adopted: Any = arrays["adopted"]
        self._tensors = [self._views(buffer) for buffer in arrays["buffers"]]
        self._publishing = threading.Lock()  # between threads of this process; no other process ever waits for it

    @property
    def version(self) -> int:
        """The newest complete version."""
        return self._version[self._latest[0]]

    def publish(self, module: nn.Module | None, version: int | None = None) -> int:
        """Copy the parameters and buffers of `module` and make them the latest version.

        Args:
            module: Source, on any device, with the tensors of the agent's model, no more and no fewer.
            version: Number to give it, one more than the last by default.

        Returns:
            The policy version.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
        """
        sources = self._checked(module)
        with self._publishing:
            return self._publish(sources, version)

    def _publish(self, sources: list[torch.Tensor], version: int | None) -> int:
        if version is None:
            version = self.version + 1
        taken = {self._latest[0], *(named - 1 for named in self._reading)}
        index = next(i for i in range(len(self._tensors)) if i not in taken)
        self._begun[index] += 1
        fence()
        with torch.no_grad():
            for target, source in zip(self._tensors[index], sources, strict=True):
                target.copy_(source)
        self._version[index] = version
        fence()
        self._ended[index] = self._begun[index]
        fence()
        self._latest[0] = index
        fence()
        return version

    def adopt(self) -> int:
        """Copy the newest complete version to the adopted parameters; return its number.

        Where another process adopts for this one, copy nothing and return the number of what it adopted.
        """
        if self._reader is None:
            return self._adopted_version[0]
        while True:
            index = self._latest[0]
            self._reading[self._reader] = 1 + index
            fence()  # or the writer could take the buffer, not yet having seen the name
            complete = self._ended[index]
            if self._latest[0] != index or self._begun[index] != complete:
                continue
            version = self._version[index]
            np.copyto(self._adopted, self._buffers[index])
            fence()
            if self._begun[index] == complete:
                self._reading[self._reader] = 0
                self._adopted_version[0] = version
                return version

    def bind(self, module: nn.Module) -> None:
        """Make the tensors of `module` views of the adopted parameters, so that adopting needs no second copy."""
        with torch.no_grad():
            for view, tensor in zip(self._views(self._adopted), named_tensors(module).values(), strict=True):
                tensor.data = view

    def load(self, module: nn.Module) -> None:
        """Copy the adopted parameters into the tensors of `module`, which are on a device of their own."""
        with torch.no_grad():
            for view, tensor in zip(self._views(self._adopted), named_tensors(module).values(), strict=True):
                tensor.data.copy_(view, non_blocking=True)

    def _views(self, buffer: Any) -> list[torch.Tensor]:
        if not self._parameters:
            return []
        flat = torch.from_numpy(buffer)
        return [flat[p.offset : p.offset + p.nbytes].view(p.dtype).view(p.shape) for p in self._parameters]

    def _checked(self, module: nn.Module | None) -> list[torch.Tensor]:
        if module is None:
            if self._parameters:
                raise ConfigError("publish() needs a module: the agent has no model in this process")
            return []
        tensors = named_tensors(module)
        for p in self._parameters:
            tensor = tensors.pop(p.name, None)
            if tensor is None:
                raise ConfigError(f"the module to publish has no parameter {p.name!r}, which the agent's model has")
            if (tuple(tensor.shape), tensor.dtype) != (p.shape, p.dtype):
                raise ConfigError(
                    f"the parameter {p.name!r} of the module to publish is {tensor.dtype}{list(tensor.shape)}; "
                    f"the agent's model has {p.dtype}{list(p.shape)}"
                )
        if tensors:
            raise ConfigError(
                f"the module to publish has a parameter {next(iter(tensors))!r}, which the agent's model has not"
            )
        named = named_tensors(module)
        return [named[p.name] for p in self._parameters]
