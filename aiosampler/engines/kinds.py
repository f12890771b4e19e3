"""Which engine runs in the sampler process; the module of an engine is imported there, when it is chosen."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.interfaces import Engine
    from aiosampler.memory.arena import Arena
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.messages import Probed, Start


class EngineKind(Enum):
    """The engines that there are."""

    SERIAL = "serial"
    CPU = "cpu"
    SERVED = "served"
    DEVICES = "devices"
    DYNAMIC = "dynamic"


class EngineClass(Protocol):
    """How an engine is made."""

    def __call__(
        self,
        *,
        options: Options,
        probed: Probed,
        start: Start,
        arena: Arena,
        views: ArenaViews,
        phase: Callable[[str], Any],
    ) -> Engine:
        """Make an engine, which starts nothing yet.

        Args:
            options: The sampler's arguments.
            probed: What was learned about environment and agent.
            start: Layout and specs.
            arena: The shared memory, for processes that the engine starts; the engine closes it.
            views: Of it.
            phase: Told what is being done.
        """


def engine_class(kind: EngineKind) -> EngineClass:
    """The class of an engine."""
    match kind:
        case EngineKind.SERIAL:
            from aiosampler.engines.serial_engine import SerialEngine

            return SerialEngine
        case EngineKind.CPU:
            from aiosampler.engines.cpu_engine import CpuEngine

            return CpuEngine
        case EngineKind.SERVED:
            from aiosampler.engines.served_engine import ServedEngine

            return ServedEngine
        case EngineKind.DEVICES:
            from aiosampler.engines.devices_engine import DevicesEngine

            return DevicesEngine
        case EngineKind.DYNAMIC:
            from aiosampler.engines.dynamic_engine import DynamicEngine

            return DynamicEngine
