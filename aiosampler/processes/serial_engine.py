"""The engine of the serial sampler: everything in the sampler process itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.processes.local import LocalRunner
from aiosampler.processes.messages import Collected, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena import Arena
    from aiosampler.processes.cargo import Cargo
    from aiosampler.processes.messages import Probed, Start
    from aiosampler.specs.trees import Tree


class Engine:
    """Collects in place: while a batch is filled nothing else runs in this process, since nothing else is to do."""

    def __init__(
        self, *, cargo: Cargo, probed: Probed, start: Start, arena: Arena, arrays: Tree, phase: Callable[[str], None]
    ) -> None:
        arena.close()  # there are no workers to pass it on to
        job = cargo.job
        self._step_clocks = arrays["dense"]["step_clocks"]
        share = Share(0, range(job.batch.B), range(job.eval_n_envs))
        self._runner = LocalRunner(
            cargo=cargo, probed=probed, start=start, arrays=arrays, share=share, reader=0, phase=phase
        )

    async def start(self) -> None:
        """Build the environments and reset them."""
        self._runner.start()

    def adopt(self) -> int:
        """Take over the newest parameters; return their version."""
        return self._runner.adopt()

    async def collect(self, itr: int, slot: int) -> Collected:
        """Fill a slot."""
        self._step_clocks[slot].fill(0)
        return Collected([self._runner.collect(itr, slot)])

    async def evaluate(self, itr: int) -> Collected:
        """Evaluate."""
        return Collected([self._runner.evaluate(itr)])

    async def aclose(self) -> None:
        """Close the environments."""
        self._runner.close()
