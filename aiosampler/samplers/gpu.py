"""Samplers whose workers only step environments, and whose action server acts for all of them at once."""

from __future__ import annotations

import dataclasses
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from aiosampler.engines.assignments import assign
from aiosampler.engines.kinds import EngineKind
from aiosampler.engines.server_process import run_action_server
from aiosampler.errors import ConfigError
from aiosampler.memory.arena_map import ProcessCounts
from aiosampler.runtime.deadlines import START_MARGIN_S
from aiosampler.samplers.parallel import AsyncParallelSamplerMixin
from aiosampler.samplers.starting import ProcessPlan
from aiosampler.servers.accelerator import missing
from aiosampler.servers.action_server import AsyncActionServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from aiosampler.memory.arena import Arena
    from aiosampler.options import Options


class AsyncGpuSamplerBase(AsyncParallelSamplerMixin):
    """An action server chooses the actions: one forward pass for all environments of a group.

    Workers hold no agent and never import torch. `device` is one device or several; each of several has an action
    server in a process of its own, with its share of the environments and of the workers.
    """

    def _refined(self, options: Options) -> Options:
        assert self.action_server is not None
        payload = options.payload.including(
            action_server=self.action_server, action_server_process=self.action_server_process
        )
        names = device_names(options.devices, options.start_method)
        options = super()._refined(dataclasses.replace(options, payload=payload, devices=names))
        if not options.lockstep:
            self._check_dynamic()
        if options.worker_count < len(names):
            raise ConfigError(
                f"n_workers={options.worker_count} is less than the {len(names)} devices, each of which needs workers "
                "of its own"
            )
        return options

    def _check_dynamic(self) -> None:
        assert self.action_server is not None
        if self.action_server.n_groups > 1:
            raise ConfigError(
                f"lockstep=False would be ignored by {type(self).__name__}, whose groups take turns; use "
                "AsyncGpuSampler"
            )

    @classmethod
    async def action_server_process(cls, sock: socket.socket, arena: Arena, index: int, device: str) -> None:
        """Run the process of one of several devices: an action server, which starts its own workers.

        With a single device there is no such process: the action server is a part of the sampler process. A subclass
        may override this to set up the process before it awaits the inherited method, which returns when the sampler
        ends, or to clean up afterwards. An override in the user's main module is sent by value.

        Args:
            sock: This end of the control channel to the sampler process.
            arena: The shared memory.
            index: Index of the server among those of the sampler.
            device: Name of the device that its agent runs on.
        """
        await run_action_server(sock, arena, index)

    def _default_workers(self, options: Options) -> int:
        return min(options.batch_B, max(len(options.devices), options.cpu_count))

    def _processes(self) -> ProcessPlan:
        assert self.action_server is not None
        W, devices, n_groups = self.options.worker_count, self.options.devices, self.action_server.n_groups
        groups = [group for assignment in assign(W, 0, W, devices, n_groups) for group in assignment.groups]
        B, members, dynamic = self.options.batch_B, 1, 0
        several, engine = len(devices) > 1, EngineKind.DEVICES if len(devices) > 1 else EngineKind.SERVED
        if not self.options.lockstep:
            groups = []  # workers do not step together
            shares = chain.from_iterable(a.shares for a in assign(B, self.options.eval_n_envs, W, devices))
            dynamic = len(devices)
            members = max(max(len(share.environments), len(share.evaluation)) for share in shares)
            engine = EngineKind.DEVICES if several else EngineKind.DYNAMIC
        return ProcessPlan(
            engine=engine,
            counts=ProcessCounts(W, servers=len(devices), groups=len(groups), members=members, dynamic=dynamic),
            groups=[range(group[0].rank, group[-1].rank + 1) for group in groups],
            start_margin=START_MARGIN_S * (1 + several),  # a server process waits for its workers, too
        )


class AsyncGpuSampler(AsyncGpuSamplerBase):
    """All workers step, then the agent acts for all of them.

    The right choice where the agent is large, or has a GPU: it sees all environments in one batch. The arguments are
    those of `AsyncSamplerMixin`.
    """

    action_server: ClassVar[type[AsyncActionServer] | None] = AsyncActionServer


def device_names(devices: Sequence[Any], start_method: str) -> tuple[str, ...]:
    """The checked names of devices.

    Raises:
        ConfigError: The list is empty, a device does not exist, or devices of its kind cannot be used.
    """
    if not devices:
        raise ConfigError("device must be a device or a sequence of devices, got none")
    return tuple(_device(device, start_method) for device in devices)


def _device(device: Any, start_method: str) -> str:
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as exc:
        raise ConfigError(f"device must be a torch device such as 'cpu' or 'cuda:0', got {device!r}") from exc
    if wanted.type == "cpu":
        return "cpu"
    module, kind = getattr(torch, wanted.type, None), wanted.type.upper()
    if module is None or missing(module):
        lacks = "" if module is None else f": torch.{wanted.type} has no {missing(module)[0]}"
        raise ConfigError(
            f"device={str(wanted)!r} is of a kind that is not supported{lacks}; use 'cpu', 'cuda', or what else torch "
            "has streams and events for"
        )
    count = module.device_count()
    if (wanted.index or 0) >= count:
        raise ConfigError(f"device={str(wanted)!r}, but torch finds {count} {kind} devices here")
    if start_method == "fork":
        raise ConfigError(
            f"device={str(wanted)!r} cannot be used with start_method='fork': {kind} does not work in forked "
            "processes; use 'spawn' or 'forkserver'"
        )
    return f"{wanted.type}:{wanted.index or 0}"
