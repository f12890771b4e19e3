"""Publication of parameters through the arena, without locks; a reader never sees half of an update.

The user's process publishes, the sampler process adopts (copies) the newest version, and the processes with an agent
use the adopted copy. There are three buffers to publish to, so one is always free: neither the latest, nor the one that
the reader copies from. A process that is killed at any point does not block the others: a half-written buffer never
becomes the latest, and a killed reader only leaves one buffer marked.

===================  =======  ===================================================================
field                writer   meaning
===================  =======  ===================================================================
latest               user     index of the newest complete buffer
reading              sampler  1 + index of the buffer that is being copied from, 0 for none
begun[i]             user     number of writes to buffer i that have begun
ended[i]             user     number of writes to buffer i that are complete
version[i]           user     policy version in buffer i
adopted_version[j]   sampler  policy version in adopted buffer j
===================  =======  ===================================================================

The reader marks a buffer as being read, checks that it is still the latest, copies it, and checks that no write to it
has begun meanwhile, or else retries: the writer may have missed the mark by nanoseconds. It copies to one of two
buffers in turn, since a batch may be in progress with the parameters in the other one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.modules import ModuleTensors, check_state
from aiosampler.agents.sources import SourceMatcher
from aiosampler.memory.layout import ALIGNMENT
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from aiosampler.specs.trees import Tree


_PUBLISHED, _ADOPTED = 3, 2  # numbers of buffers


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter or buffer of a module, and where it lies in a buffer of the store.

    Attributes:
        names: All its names, sorted; more than one if it is tied.
        shape: Shape of the tensor.
        dtype: Dtype of the tensor.
        offset: Position in a buffer of the store, in bytes.
        nbytes: Size in bytes.
        scratch: Whether it is a buffer with ``persistent=False``.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int
    scratch: bool = False

    @property
    def name(self) -> str:
        """One of its names."""
        return self.names[0]


def parameter_specs(module: nn.Module | None) -> tuple[ParameterSpec, ...]:
    """The specs of all parameters and buffers of `module`, which may be wrapped; none without a module.

    Raises:
        ConfigError: It has a tensor that cannot be published, or state that is not a tensor.
        TypeError: It is not a module.
    """
    if module is None:
        return ()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"agent.model must be a module of torch or None, got a {type(module).__name__}; "
            "put several modules into one, such as nn.ModuleDict"
        )
    specs, offset = [], 0
    found = ModuleTensors(module)
    check_state(module, found)
    for names, tensor in found.groups():
        nbytes = tensor.numel() * tensor.element_size()
        scratch = found.scratch.issuperset(names)
        specs.append(ParameterSpec(names, tuple(tensor.shape), tensor.dtype, offset, nbytes, scratch))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(specs)


def store_specs(parameters: tuple[ParameterSpec, ...]) -> Tree:
    """The specs of the arrays of a parameter store."""
    nbytes = parameters[-1].offset + parameters[-1].nbytes if parameters else 0
    nbytes += -nbytes % ALIGNMENT  # or the tensors of the second buffer would not be aligned
    int64, uint8 = np.dtype(np.int64), np.dtype(np.uint8)
    return {
        "latest": ArraySpec((1,), int64),
        "reading": ArraySpec((1,), int64),
        "begun": ArraySpec((_PUBLISHED,), int64),
        "ended": ArraySpec((_PUBLISHED,), int64),
        "version": ArraySpec((_PUBLISHED,), int64),
        "buffers": ArraySpec((_PUBLISHED, nbytes), uint8),
        "adopted": ArraySpec((_ADOPTED, nbytes), uint8),
        "adopted_version": ArraySpec((_ADOPTED,), int64),
    }


class Publisher:
    """The writing end of the store, in the user's process.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
        parameters: Specs of the tensors.
    """

    def __init__(self, arrays: Tree, parameters: tuple[ParameterSpec, ...]) -> None:
        self._parameters = parameters
        self._latest, self._reading = memoryview(arrays["latest"]), memoryview(arrays["reading"])
        self._begun, self._ended = memoryview(arrays["begun"]), memoryview(arrays["ended"])
        self._version = memoryview(arrays["version"])
        with torch.inference_mode(False):  # or, if a sampler is started in that mode, publishing outside of it fails
            self._tensors = [tensor_views(buffer, parameters) for buffer in arrays["buffers"]]
        self._sources = SourceMatcher(parameters)
        self._publishing = threading.Lock()  # only for threads of this process

    @property
    def version(self) -> int:
        """The newest complete version."""
        return self._version[self._latest[0]]

    def publish(self, source: nn.Module | Mapping[str, Any] | None, version: int | None = None) -> int:
        """Copy parameters and buffers to a free buffer, and make that the latest version.

        Args:
            source: A module, which may be wrapped, or a state_dict, on any device, with the tensors of the agent's
                model, no more and no fewer. A state_dict leaves buffers with ``persistent=False`` as they were.
            version: Number to give it, one more than the last by default.

        Returns:
            The policy version.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
            TypeError: It is neither a module nor a state_dict.
        """
        with self._publishing:
            return self._publish(self._sources.match(source), version)

    def publish_tensors(self, tensors: list[torch.Tensor | None], version: int) -> int:
        """Publish what `SourceMatcher.match` found for the same parameters in another process.

        Args:
            tensors: In the order of the specs; None leaves a buffer as it was.
            version: The number to give it.

        Returns:
            The policy version.
        """
        with self._publishing:
            return self._publish(tensors, version)

    def _publish(self, sources: list[torch.Tensor | None], version: int | None) -> int:
        if version is None:
            version = self.version + 1
        latest = self._latest[0]
        taken = latest, self._reading[0] - 1
        index = next(i for i in range(_PUBLISHED) if i not in taken)
        self._begun[index] += 1
        fence()
        with torch.no_grad():
            for i, (target, tensor) in enumerate(zip(self._tensors[index], sources, strict=True)):
                target.copy_(self._tensors[latest][i] if tensor is None else tensor)
        self._version[index] = version
        fence()
        self._ended[index] = self._begun[index]
        fence()
        self._latest[0] = index
        fence()
        return version


class Adopted(NamedTuple):
    """The adopted parameters for a batch: the index of the buffer, and the policy version."""

    version: int
    buffer: int


class Reader:
    """The reading end of the store, in the sampler process; there is only one.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
    """

    def __init__(self, arrays: Tree) -> None:
        self._latest, self._reading = memoryview(arrays["latest"]), memoryview(arrays["reading"])
        self._begun, self._ended = memoryview(arrays["begun"]), memoryview(arrays["ended"])
        self._version, self._adopted_version = memoryview(arrays["version"]), memoryview(arrays["adopted_version"])
        self._buffers, self._adopted = arrays["buffers"], arrays["adopted"]
        self._current: Adopted | None = None

    def adopt(self) -> Adopted:
        """Copy the newest complete version, unless that was adopted last.

        The version adopted last stays valid; the one before it is overwritten, so it must not be in use any more.
        """
        while True:
            index = self._latest[0]
            self._reading[0] = 1 + index
            fence()  # or the writer may not yet see the mark, and choose this buffer
            complete = self._ended[index]
            if self._latest[0] != index or self._begun[index] != complete:
                continue
            version = self._version[index]
            if self._current is not None and self._current.version == version:
                self._reading[0] = 0
                return self._current
            buffer = 0 if self._current is None else 1 - self._current.buffer
            np.copyto(self._adopted[buffer], self._buffers[index])
            fence()
            if self._begun[index] == complete:
                self._reading[0] = 0
                self._adopted_version[buffer] = version
                self._current = Adopted(version, buffer)
                return self._current


def tensor_views(buffer: Any, parameters: tuple[ParameterSpec, ...]) -> list[torch.Tensor]:
    """Views of the tensors in one buffer of the store."""
    if not parameters:
        return []
    flat = torch.from_numpy(buffer)
    return [flat[p.offset : p.offset + p.nbytes].view(p.dtype).view(p.shape) for p in parameters]
