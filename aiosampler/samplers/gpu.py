"""Worker processes that only step environments, and a server that acts for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from aiosampler.affinity import usable_cpu_count
from aiosampler.engines.assignments import assign
from aiosampler.errors import ConfigError
from aiosampler.memory.arena_map import ProcessCounts
from aiosampler.samplers.parallel import AsyncParallelSamplerMixin
from aiosampler.servers.action_server import AsyncActionServer

if TYPE_CHECKING:
    from aiosampler.affinity import Affinity


class AsyncGpuSamplerBase(AsyncParallelSamplerMixin):
    """Has an action server choose the actions: one forward pass for all environments of a group.

    Workers hold no agent and never import torch. `device` is one device or several; each of several has an action
    server in a process of its own, with its share of the environments and of the workers.
    """

    _engine = "aiosampler.engines.served_engine"
    _shared_evaluation = True

    def _check_placement(
        self, n_workers: int | None, affinity: Affinity | None, device: Any, max_worker_restarts: int
    ) -> None:
        self._devices = devices(device, self._config.start_method)
        if len(self._devices) > 1:
            self._engine = "aiosampler.engines.devices_engine"
            self._start_margin = 2 * self._start_margin  # a server, too, waits for its workers
        super()._check_placement(n_workers, affinity, device, max_worker_restarts)
        D, W = len(self._devices), self._n_workers
        if W < D:
            raise ConfigError(f"n_workers={W} is less than the {D} devices, each of which needs workers of its own")

    def _default_workers(self) -> int:
        return min(self._config.batch_B, max(len(self._devices), usable_cpu_count()))

    def _process_counts(self) -> ProcessCounts:
        D = len(self._devices)
        return ProcessCounts(self._n_workers, servers=D, groups=D * self._n_groups)

    def _group_workers(self) -> Sequence[range]:
        W = self._n_workers
        groups = [group for assignment in assign(W, 0, W, self._devices, self._n_groups) for group in assignment.groups]
        return [range(group[0].rank, group[-1].rank + 1) for group in groups]

    @property
    def _n_groups(self) -> int:
        assert self.action_server is not None
        return self.action_server.n_groups


class AsyncGpuSampler(AsyncGpuSamplerBase):
    """All workers step, then the agent acts for all of them.

    The right choice where the agent is large, or has a GPU: it sees all environments in one batch. The arguments are
    those of `AsyncSamplerMixin`.
    """

    action_server: ClassVar[type[AsyncActionServer] | None] = AsyncActionServer


def devices(device: Any, start_method: str) -> tuple[str, ...]:
    """The names of one or several devices.

    Raises:
        ConfigError: There is no such device, or its kind cannot be used.
        TypeError: It is no device.
    """
    several = isinstance(device, Sequence) and not isinstance(device, str)
    names = tuple(_device(one, start_method) for one in (device if several else (device,)))
    if not names:
        raise ConfigError("device must be a device or a sequence of devices, got none")
    return names


def _device(device: Any, start_method: str) -> str:
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as exc:
        raise ConfigError(f"device must be a torch device such as 'cpu' or 'cuda:0', got {device!r}") from exc
    if wanted.type == "cpu":
        return "cpu"
    if wanted.type != "cuda":
        raise ConfigError(f"device={str(wanted)!r} is of a kind that is not supported; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count()
    if (wanted.index or 0) >= count:
        raise ConfigError(f"device={str(wanted)!r}, but torch finds {count} CUDA devices here")
    if start_method == "fork":
        raise ConfigError(
            f"device={str(wanted)!r} cannot be used with start_method='fork': CUDA does not work in forked processes; "
            "use 'spawn' or 'forkserver'"
        )
    return f"cuda:{wanted.index or 0}"
