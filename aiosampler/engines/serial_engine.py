"""The engine of the serial sampler, which does everything in the sampler process itself."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aiosampler.runtime.outside_loop import outside_loop
from aiosampler.workers.failures import describe
from aiosampler.workers.local_acting import local_runner
from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate, Share

if TYPE_CHECKING:
    from aiosampler.engines.parts import EngineParts
    from aiosampler.workers.runner import Runner


class SerialEngine:
    """An `Engine` that steps all environments in place, which blocks the event loop of the sampler process.

    Args:
        parts: What every engine gets.
    """

    runs_ahead = False

    def __init__(self, parts: EngineParts) -> None:
        parts.arena.close()  # no other process needs it
        self._step_clocks = parts.views.step_clocks
        self._runner: Runner | None = None
        self._make_runner = functools.partial(
            local_runner,
            options=parts.options,
            probed=parts.probed,
            start=parts.start,
            views=parts.views,
            share=Share(0, range(parts.options.batch.B), range(parts.options.eval_n_envs)),
            phase=parts.phase,
        )

    async def start(self) -> None:
        """Build the agent and the environments, and reset these."""
        self._runner = await outside_loop(self._make_runner)
        await outside_loop(self._runner.start)

    async def announce(self, request: Collect) -> bool:
        """Return False: a batch begins after the one before is complete."""
        return False

    async def collect(self, request: Collect) -> Collected:
        """Fill a slot."""
        assert self._runner is not None
        self._step_clocks[request.slot].fill(0)
        return Collected([await outside_loop(self._runner.collect, request)])

    async def evaluate(self, request: Evaluate) -> Collected:
        """Evaluate."""
        assert self._runner is not None
        return Collected([await outside_loop(self._runner.evaluate, request)])

    async def call(self, request: Call) -> Called:
        """Call environments."""
        assert self._runner is not None
        return await outside_loop(self._runner.call, request, functools.partial(describe, process="sampler"))

    async def aclose(self) -> None:
        """Close the environments."""
        if self._runner is not None:
            await outside_loop(self._runner.close)
