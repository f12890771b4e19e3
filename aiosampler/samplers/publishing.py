"""Publishing new parameters of the agent from the user's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.interrupted import leaves_nothing
from aiosampler.samplers.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from aiosampler.agents.agent import Agent
    from aiosampler.samplers.session import Session
    from aiosampler.samplers.shared_buffers import SharedBuffers


class Publishing:
    """The part of a sampler that publishes the parameters of the agent's model."""

    agent: Agent
    _session: Session
    _shared: SharedBuffers | None

    def publish(self, module: nn.Module | Mapping[str, torch.Tensor] | None = None) -> int:
        """Copy parameters and buffers to the sampler, which adopts the newest when it begins a batch.

        With overlap, a batch is begun once the one before was asked for and, but in `AsyncCpuSampler`, is complete.
        A sampler that is collecting is not disturbed, and never sees half of an update. This returns when the copy is
        made; `apublish` makes it without holding up the event loop.

        Args:
            module: With the tensors of the agent's model, by name; the agent's model itself by default. It may be
                wrapped by `DistributedDataParallel`, `DataParallel`, `torch.compile` or `AveragedModel`, and may be a
                state_dict, which leaves the buffers that belong to none as they were.

        Returns:
            The policy version, which `Samples.policy_version` will show.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
            SamplerClosed: The sampler does not run.
            TypeError: It is no module and no state_dict.
        """
        self._session.require_running()
        assert self._shared is not None
        return self._shared.publisher.publish(self.agent.model if module is None else module)

    @leaves_nothing
    async def apublish(self, module: nn.Module | Mapping[str, torch.Tensor] | None = None) -> int:
        """`publish`, with the copying in a thread: for large models, which would hold up the event loop.

        The parameters must not change until it returns, which is when they are published; also where it is cancelled.

        Args:
            module: As for `publish`.

        Returns:
            The policy version.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
            SamplerClosed: The sampler does not run.
            TypeError: It is no module and no state_dict.
        """
        self._session.require_running()
        assert self._shared is not None
        publisher, source = self._shared.publisher, self.agent.model if module is None else module
        return await beside_loop(lambda: publisher.publish(source))

    @property
    def policy_version(self) -> int:
        """The version that was published last: 0 for the parameters that the sampler started with."""
        if self._shared is None or self._session.state is State.CLOSED:
            self._session.require_running()
        assert self._shared is not None
        return self._shared.policy_version
