"""What every engine gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena import Arena
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.messages import Probed, Start


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What an engine gets from the process that it runs in.

    Attributes:
        options: The sampler's arguments.
        probed: What trying out environment and agent has found.
        start: Layout and specs.
        arena: The shared memory, for processes that the engine starts; the engine closes it.
        views: Views of the arena.
        phase: Called with the phases of the start.
    """

    options: Options
    probed: Probed
    start: Start
    arena: Arena
    views: ArenaViews
    phase: Callable[[str], None]
