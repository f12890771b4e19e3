"""The engines by kind. The module of an engine is imported only in the sampler process, when it is chosen."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.engines.parts import EngineParts
    from aiosampler.interfaces import Engine


class EngineKind(Enum):
    """The kinds of engines."""

    SERIAL = "serial"
    CPU = "cpu"
    SERVED = "served"
    DEVICES = "devices"
    DYNAMIC = "dynamic"


def engine_class(kind: EngineKind) -> Callable[[EngineParts], Engine]:
    """The class of an engine; its constructor starts nothing."""
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
        case _:
            assert_never(kind)
