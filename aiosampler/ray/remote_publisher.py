"""Parameters on their way to all actors: one copy in the object store, from which each node fetches its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import ray

from aiosampler.agents.sources import SourceMatcher
from aiosampler.ray.travel import as_bytes
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.interrupted import leaves_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import nn

    from aiosampler.agents.agent import Agent
    from aiosampler.agents.parameters import ParameterSpec


class RemotePublisher:
    """Puts parameters into the object store, and has them sent.

    Args:
        parameters: Specs of the tensors of the agent's model.
        version: The number of those that the actors begin with.
        send: Called with a reference and its version, in the thread of the event loop.

    Attributes:
        policy_version: The version that was put last.
    """

    def __init__(self, parameters: Sequence[ParameterSpec], version: int, send: Callable[[Any, int], object]) -> None:
        self._sources, self._send, self.policy_version = SourceMatcher(parameters), send, version
        self._putting = threading.Lock()  # only for threads of this process

    def publish(self, source: nn.Module | Mapping[str, torch.Tensor] | None) -> int:
        """Put parameters and send them; return their version. See `Publishing.publish` for what is raised."""
        ref, version = self.put(source)
        self._send(ref, version)
        return version

    def put(self, source: nn.Module | Mapping[str, torch.Tensor] | None, version: int | None = None) -> tuple[Any, int]:
        """Put parameters into the object store; return a reference and their version, one more than the last."""
        with self._putting:
            ref = ray.put(as_bytes(self._sources.match(source)))
            self.policy_version = self.policy_version + 1 if version is None else version
            return ref, self.policy_version


class RemotePublishing:
    """The part of a sampler on Ray that publishes the parameters of the agent's model."""

    agent: Agent
    _session: Any
    _shared: Any

    def publish(self, module: nn.Module | Mapping[str, torch.Tensor] | None = None) -> int:
        """Send parameters and buffers to all actors, each of which adopts the newest when it begins a batch.

        They are put into the object store once, and fetched once by each node. This returns when they are there;
        `apublish` puts them without holding up the event loop. With ``overlap=False`` no batch that is asked for
        afterwards is begun without them.

        Args:
            module: As of a local sampler's `publish`, and so is what is returned and raised.
        """
        return self._publisher().publish(self.agent.model if module is None else module)

    @leaves_nothing
    async def apublish(self, module: nn.Module | Mapping[str, torch.Tensor] | None = None) -> int:
        """`publish`, with the copying in a thread. The parameters must not change until it returns."""
        publisher, source = self._publisher(), self.agent.model if module is None else module
        ref, version = await beside_loop(lambda: publisher.put(source))
        self._session.require_running()
        self._session.publish(ref, version)
        return version

    @property
    def policy_version(self) -> int:
        """The version that was published last."""
        return self._publisher().policy_version

    def _publisher(self) -> RemotePublisher:
        self._session.require_running()
        publisher: RemotePublisher = self._shared
        return publisher
