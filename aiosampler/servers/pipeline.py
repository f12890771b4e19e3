"""The order in which a group is served. It uses only interfaces, so that tests can run it without processes."""

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
    """A group, and the stage that steps the agent for it."""

    group: Group
    inference: Inference


class Turns:
    """Keeps two pipelines half a cycle apart, until one of them ends."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(2)

    async def wait(self) -> None:
        """Suspend until the other pipeline is also at the end of its phase."""
        with contextlib.suppress(asyncio.BrokenBarrierError):  # the other pipeline has ended
            await self._barrier.wait()

    async def leave(self) -> None:
        """End taking turns: the other pipeline waits for this one no more."""
        await self._barrier.abort()


async def serve(
    pipeline: Pipeline, slot: int, T: int, *, abort: Any, turns: Turns | None = None, late: bool = False
) -> None:
    """Serve a group for a batch of T steps, or until all of its environments wait for their resets.

    A cycle has two phases: the stage infers while the workers wait, then the workers step. With `turns`, another
    pipeline infers while these step, and steps while this one infers.

    Args:
        pipeline: What to serve.
        slot: Index of the slot that the workers write to.
        T: Number of steps.
        abort: Array of one element: not zero ends the batch at the next step.
        turns: Shared with the other pipeline, to alternate with it; None to run freely.
        late: Whether this is the pipeline that begins half a cycle later.

    Raises:
        Aborted: `abort` was set.
        AgentFault: The agent raised, or returned what does not fit.
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
            await asyncio.sleep(0)  # lets the other release its workers, before the agent blocks the loop
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
