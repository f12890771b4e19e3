"""Batches and parameters as Ray's object store holds them: NumPy arrays, which are read there without a copy."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.workers.episodes import EpisodeInfos, pack_episodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.agents.parameters import ParameterSpec
    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.errors import SamplerError
    from aiosampler.samplers.samples import Samples


class Reply(NamedTuple):
    """A batch on its way from an actor.

    In the actor its arrays are views of a slot, which Ray copies to the object store, or into a message if they are
    small: that copy is the one that travels. The slot must not be written to before; see `Lent`.
    """

    samples: Samples  # with NumPy arrays in place of tensors, and no trajectory infos
    episodes: bytes  # these, from `pack_episodes`
    failures: tuple[SamplerError, ...]  # why workers of the actor's sampler were lost since the last batch


class Lent:
    """The arrays of a batch, lent to Ray, which says to nobody when it has copied them.

    Each array that `array` makes keeps this object alive, and so does whoever has the array, or reads its memory. So
    when nothing of them is left, this object ends, and the memory may be written to.

    Args:
        returned: Called then, from any thread.
    """

    def __init__(self, returned: Callable[[], object]) -> None:
        weakref.finalize(self, returned).atexit = False

    def array(self, tensor: torch.Tensor) -> np.ndarray[Any, Any]:
        """An array with the memory of a tensor."""
        return np.asarray(_Memory(tensor.numpy(), keeps=self))


def packed(samples: Samples, kind: type[TrajInfo], failures: tuple[SamplerError, ...], lent: Lent) -> Reply:
    """Make the reply of an actor.

    Args:
        samples: The batch.
        kind: The class of its trajectory infos, which may be defined in the user's main module.
        failures: See `Reply`.
        lent: Keeps the memory of the batch.
    """
    episodes = [FinishedEpisode(0, i, info) for i, info in enumerate(samples.traj_infos)]
    arrays = samples.map(lent.array)  # type: ignore[arg-type] # no tensors until they have travelled
    return Reply(dataclasses.replace(arrays, traj_infos=[]), pack_episodes(episodes, kind), failures)


def unpacked(reply: Reply, kind: type[TrajInfo]) -> Samples:
    """Make a batch of tensors from a reply, whose memory they share."""
    return dataclasses.replace(reply.samples.map(as_tensor), traj_infos=EpisodeInfos([reply.episodes], kind).infos())


class _Memory:
    """The memory of an array, which it keeps alive, with another object, and without the mark not to be written to."""

    def __init__(self, array: np.ndarray[Any, Any], keeps: object = None) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._kept = array, keeps


def as_tensor(array: Any) -> torch.Tensor:
    """Make a tensor that shares the memory of an array from the object store.

    Ray marks such arrays as read-only, since several processes may read one object. What this package puts there is
    read by one process alone, so the tensor may be written to; torch knows no other tensors.
    """
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Memory(array)))


def as_bytes(tensors: Sequence[torch.Tensor | None]) -> list[np.ndarray[Any, Any] | None]:
    """Make arrays of bytes from parameters on any device and of any dtype, without a copy of those on the CPU."""
    return [
        None if tensor is None else tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        for tensor in tensors
    ]


def from_bytes(
    arrays: Sequence[np.ndarray[Any, Any] | None], specs: Sequence[ParameterSpec]
) -> list[torch.Tensor | None]:
    """Make the tensors of some specs from arrays of bytes, whose memory they share."""
    return [
        None if array is None else as_tensor(array).view(spec.dtype).view(spec.shape)
        for array, spec in zip(arrays, specs, strict=True)
    ]
