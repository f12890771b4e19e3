"""The arena in the user's process: the double buffer, the parameters to publish, flags and progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.agents.parameters import Publisher
from aiosampler.memory.progress import PID, read_progress
from aiosampler.memory.slot import poison
from aiosampler.samplers.call_statistics import copied, unfinished
from aiosampler.samplers.samples import SlotSamples
from aiosampler.samplers.timeline import Timeline
from aiosampler.workers.episodes import EpisodeInfos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.agents.parameters import ParameterSpec
    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.interfaces import Reading
    from aiosampler.memory.arena_map import ArenaViews, ProcessCounts
    from aiosampler.samplers.episode_ends import EpisodeEnds
    from aiosampler.samplers.samples import Samples
    from aiosampler.workers.messages import Batch


class SharedBuffers:
    """Makes samples that are views of the arena, and publishes the agent's parameters.

    Args:
        views: Views of the arena.
        parameters: Specs of the agent's tensors.
        agent: The user's agent; `release` ends its connection to the publisher.
        traj_info_cls: Class of the trajectory infos.
        counts: How many workers and servers there are.
        groups: For each group, the ranks of its workers.
        debug: Whether `take_back` fills the batch with NaN or extreme integers.

    Attributes:
        samples: The double buffer: views of the two slots.
        publisher: Copies parameters to the arena, until `release`.
    """

    def __init__(
        self,
        views: ArenaViews,
        parameters: tuple[ParameterSpec, ...],
        agent: Agent,
        *,
        traj_info_cls: type[TrajInfo],
        counts: ProcessCounts,
        groups: Sequence[range],
        debug: bool,
    ) -> None:
        self._views: ArenaViews | None = views
        self._traj_info_cls, self._counts, self._groups, self._debug = traj_info_cls, counts, groups, debug
        self._agent, self.publisher = agent, Publisher(views.parameters, parameters)
        self._nothing_served = None if counts.dynamic else copied(views.serving[0])  # the same for all batches
        self._final_version = 0
        self._released: list[object] = []
        self._held: tuple[int, list[EpisodeEnds]] | None = None  # slot and parts of the batch that is the user's
        self._last: Batch | None = None  # that was handed out, again if its caller was cancelled
        self._index = -1  # of that
        self._slots = [SlotSamples(slot) for slot in views.slots]
        self.samples = [slot.empty() for slot in self._slots]

    @property
    def policy_version(self) -> int:
        """The version that was published last; also known after `release`."""
        return self._final_version if self._views is None else self.publisher.version

    def hand_out(self, batch: Batch) -> Samples:
        """The samples of a complete batch; its slot belongs to the user until `take_back`."""
        assert self._views is not None
        views, slot = self._views, batch.slot
        clocks = views.step_clocks[slot].copy(), views.stage_clocks[slot].copy()
        serving = copied(views.serving[slot]) if self._nothing_served is None else self._nothing_served
        timeline = Timeline(*clocks, self._groups, serving)
        if batch is not self._last:
            self._last, self._index = batch, self._index + 1
        infos = EpisodeInfos(batch.episodes, self._traj_info_cls)
        samples = self._slots[slot].full(batch, infos, timeline, self._index)
        ends = samples.env.final_observation, samples.agent.final_value
        self._held = slot, [each for each in ends if each is not None]
        return samples

    def pids(self) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """Process ids of the workers, and of the server processes; None for one that is being replaced."""
        if self._views is None or self._counts.alone:
            return (), ()
        n, servers = self._counts.workers, self._counts.servers
        pids = [int(pid) or None for pid in self._views.progress[:, PID]]
        return tuple(pids[:n]), tuple(pids[n : n + servers]) if servers > 1 else ()

    def unfinished(self) -> tuple[int, ...]:
        """Environments that the batch under way waits for; empty in lockstep."""
        return () if self._views is None else unfinished(self._views.serving)

    def take_back(self) -> None:
        """Give the batch that was returned last back to the sampler, which may overwrite it."""
        if self._held is not None:
            assert self._views is not None
            (slot, ends), self._held = self._held, None
            for each in ends:
                each.expire()
            if self._debug:
                poison(self._views.slots[slot])

    def reading(self) -> Reading:
        """Read the progress of the sampler process, which watches its own processes itself."""
        assert self._views is not None
        return read_progress(self._views.progress[-1])

    def abort_evaluation(self, wanted: bool) -> None:
        """End the current evaluation at its next step (True), or allow the next one (False)."""
        assert self._views is not None
        self._views.control.abort_evaluation[0] = wanted

    def abort_all(self) -> None:
        """End batches and evaluations in all processes at their next step."""
        assert self._views is not None
        self._views.control.abort_all()

    def release(self) -> None:
        """End all use of the arena, all at once for who asks for statistics meanwhile; `unmap` then frees it.

        Idempotent.
        """
        if self._views is None:
            return
        self._final_version = self.publisher.version
        self._agent.detach(self.publisher)
        self._released += [self.publisher, self._views, self.samples, self._slots, self._held]
        del self.publisher
        self._views, self.samples, self._slots, self._held = None, [], [], None

    def unmap(self) -> None:
        """`release`, and drop what that has left; the arena stays mapped only as long as the user has a batch.

        After `release`, for any thread.
        """
        self.release()
        self._released.clear()
