"""The order in which a group is served: pure of processes and devices, so that a test can drive it in memory."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.collector import Aborted

if TYPE_CHECKING:
    from aiosampler.interfaces import Group, Inference


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A group, and the stage that acts for its environments."""

    group: Group
    inference: Inference


class Turns:
    """Keeps two pipelines half a cycle apart, until one of them leaves."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(2)

    async def wait(self) -> None:
        """Suspend until the other pipeline is at the end of its phase, too."""
        with contextlib.suppress(asyncio.BrokenBarrierError):  # the other has left, and takes no more turns
            await self._barrier.wait()

    async def leave(self) -> None:
        """Let the other pipeline go on by itself."""
        await self._barrier.abort()


async def serve(
    pipeline: Pipeline, slot: int, T: int, *, abort: Any, turns: Turns | None = None, late: bool = False
) -> None:
    """Serve a group for a batch of T steps, or until all of its environments wait.

    A cycle has two phases: the stage infers while the workers wait, then the workers step. With `turns`, another
    pipeline infers while these step, and steps while this one infers.

    Args:
        pipeline: What to serve.
        slot: That the workers write to.
        T: Steps.
        abort: Array of one element: not zero ends the batch at the next step.
        turns: Shared with the other pipeline.
        late: Whether this pipeline is the one that begins half a cycle later.

    Raises:
        Aborted: `abort` was set.
        AgentFault: The agent raised, or answered what does not fit.
    """
    group, inference = pipeline.group, pipeline.inference
    inference.begin(slot)
    stepping = await group.observations()
    if turns is not None and late:
        await turns.wait()
    for t in range(T):
        if abort[0]:
            raise Aborted
        if not stepping:
            break
        if turns is not None:
            await asyncio.sleep(0)  # the other first releases its workers, before the agent keeps the loop busy
        group.attend()
        await inference.act(t)
        if turns is not None:
            await turns.wait()
        group.send_actions()
        inference.released(t)
        group.make_room()
        inference.record_rest(t)
        stepping = await group.observations()
        inference.stepped(t)
        if turns is not None:
            await turns.wait()
    if turns is not None:
        await turns.leave()
    inference.finish(T, idle=not stepping)
    group.dismiss()
