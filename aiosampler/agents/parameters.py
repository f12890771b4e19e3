"""Publication of parameters through the arena, without a lock and never torn.

The user's process publishes, the sampler process adopts, and those that have an agent use what was adopted. There are
three buffers to publish to, so one is always free: it is neither the latest nor the one that the reader has named as
the one it copies from. Whoever is killed, at whatever point, leaves the others able to go on: a half-written buffer
never becomes the latest, and a reader that is gone keeps one buffer named.

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

The reader names a buffer, looks again whether it still is the latest, copies, and finally checks that no write to it
has begun meanwhile. The last check makes the copy right even if the writer missed the name by nanoseconds; it retries
then. It copies to one of two buffers in turn: a batch may be under way with the parameters in the other one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.errors import ConfigError
from aiosampler.memory.layout import ALIGNMENT
from aiosampler.signals.fence import fence
from aiosampler.specs.arrays import ArraySpec

if TYPE_CHECKING:
    from torch import nn

    from aiosampler.specs.trees import Tree


_PUBLISHED, _ADOPTED = 3, 2  # buffers


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


def store_specs(parameters: tuple[ParameterSpec, ...]) -> Tree:
    """The arrays of a store in the arena."""
    nbytes = parameters[-1].offset + parameters[-1].nbytes if parameters else 0
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
    """The user's end of the store.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
        parameters: Specs of the tensors.
    """

    def __init__(self, arrays: Tree, parameters: tuple[ParameterSpec, ...]) -> None:
        self._parameters = parameters
        self._latest, self._reading = memoryview(arrays["latest"]), memoryview(arrays["reading"])
        self._begun, self._ended = memoryview(arrays["begun"]), memoryview(arrays["ended"])
        self._version = memoryview(arrays["version"])
        self._tensors = [_views(buffer, parameters) for buffer in arrays["buffers"]]
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
        taken = self._latest[0], self._reading[0] - 1
        index = next(i for i in range(_PUBLISHED) if i not in taken)
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

    def _checked(self, module: nn.Module | None) -> list[torch.Tensor]:
        if module is None:
            if self._parameters:
                raise ConfigError("publish() needs a module: the agent has no model in this process")
            return []
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"publish() takes a module of torch; load the {type(module).__name__} into one first")
        tensors, sources = named_tensors(module), []
        for p in self._parameters:
            tensor = tensors.pop(p.name, None)
            if tensor is None:
                raise ConfigError(f"the module to publish has no parameter {p.name!r}, which the agent's model has")
            if (tuple(tensor.shape), tensor.dtype) != (p.shape, p.dtype):
                raise ConfigError(
                    f"the parameter {p.name!r} of the module to publish is {tensor.dtype}{list(tensor.shape)}; "
                    f"the agent's model has {p.dtype}{list(p.shape)}"
                )
            sources.append(tensor)
        if tensors:
            raise ConfigError(
                f"the module to publish has a parameter {next(iter(tensors))!r}, which the agent's model has not"
            )
        return sources


class Adopted(NamedTuple):
    """Parameters that a batch is collected with."""

    version: int
    buffer: int


class Reader:
    """The sampler process's end of the store, of which there is one.

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
        """Copy the newest complete version, unless it was adopted last.

        What was adopted last stays as it is; what was adopted before that must not be in use any more.
        """
        while True:
            index = self._latest[0]
            self._reading[0] = 1 + index
            fence()  # or the writer could take the buffer, not yet having seen the name
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


class AdoptedParameters:
    """What was adopted, in a process that has the agent.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
        parameters: Specs of the tensors.
    """

    def __init__(self, arrays: Tree, parameters: tuple[ParameterSpec, ...]) -> None:
        self._versions = memoryview(arrays["adopted_version"])
        self._tensors = [_views(buffer, parameters) for buffer in arrays["adopted"]]
        self._targets: list[torch.Tensor] = []
        self._copied = False
        self._selected = 0
        self._version: int | None = None  # that the model has

    @property
    def version(self) -> int:
        """The policy version of what was selected."""
        return self._versions[self._selected]

    def bind(self, module: nn.Module, *, copy: bool = False) -> None:
        """Have `module` take the parameters that are selected.

        Args:
            module: The agent's model.
            copy: Copy them, for a module on a device of its own. Otherwise the module's tensors become views of what
                was adopted: no process has a copy.
        """
        self._targets, self._copied = list(named_tensors(module).values()), copy
        self.select(self._selected)

    def select(self, buffer: int) -> None:
        """Use the parameters in an adopted buffer."""
        version = self._versions[buffer]
        if self._selected == buffer and self._version == version:
            return
        self._selected, self._version = buffer, version
        with torch.no_grad():
            for target, view in zip(self._targets, self._tensors[buffer], strict=False):
                if self._copied:
                    target.data.copy_(view, non_blocking=True)
                else:
                    target.data = view


def _views(buffer: Any, parameters: tuple[ParameterSpec, ...]) -> list[torch.Tensor]:
    if not parameters:
        return []
    flat = torch.from_numpy(buffer)
    return [flat[p.offset : p.offset + p.nbytes].view(p.dtype).view(p.shape) for p in parameters]
