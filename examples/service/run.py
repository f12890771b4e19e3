"""One sampler and what learns from its batches, from the start to the end."""

import asyncio
import contextlib
import time
from typing import Any

from aiosampler import Evaluation, SamplerError, SamplerStatistics, Samples, Timeline
from service.catalog import AGENTS, Settings, make_sampler
from service.learning import Learner


class Run:
    """One run. `work` is all that it does, and ends when `stop` is called or something fails.

    Attributes:
        settings: What was asked for; the learning rate may change meanwhile.
        state: ``"starting"``, ``"running"``, ``"stopping"``, ``"stopped"`` or ``"failed"``.
        message: Why it failed.
        timeline: Of the newest batch.
        loss: Of the newest batch, None if nothing learns.
        batch_at: When it came, by `time.monotonic`.

    Raises:
        ConfigError: The settings do not fit together; no process was started.
    """

    def __init__(self, settings: Settings, before: "Run | None" = None) -> None:
        self.settings, self.state, self.message = settings, "starting", ""
        self.timeline: Timeline | None = None
        self.loss: float | None = None
        self.batch_at = time.monotonic()
        self._kept = None if before is None else before.kept(settings)
        self._agent = AGENTS[settings.agent]()
        self._sampler = make_sampler(settings, self._agent)
        self._learner: Learner | None = None
        if before is not None and settings.seed == before.settings.seed:  # else it would see the same episodes again
            self._sampler.load_state_dict(before.sampler_state())

    def statistics(self) -> SamplerStatistics:
        """Of the sampler."""
        statistics: SamplerStatistics = self._sampler.statistics()
        return statistics

    def sampler_state(self) -> dict[str, int]:
        """How far its sampler has come."""
        state: dict[str, int] = self._sampler.state_dict()
        return state

    def kept(self, settings: Settings) -> dict[str, Any] | None:
        """What was learned, if it is of use with other settings; as of the last batch, when the run has ended."""
        same = (settings.world, settings.agent) == (self.settings.world, self.settings.agent)
        return self._learner.state_dict() if same and self._learner is not None else None

    @property
    def active(self) -> bool:
        """Whether it has not come to its end yet."""
        return self.state in ("starting", "running", "stopping")

    async def work(self) -> None:
        """Start, and learn from batch after batch. Raises nothing: a run that fails is no failure of the service."""
        try:
            await self._sampler.async_initialize()
            if self._agent.model is not None:
                self._learner = Learner(self._agent.model, self.settings.learning_rate)
                if self._kept is not None:
                    self._learner.load_state_dict(self._kept)
            await self._sampler.initialize()
            if self.state == "starting":
                self.state = "running"
            async for samples in self._sampler:
                await self._learn(samples)
            self.state = "stopped"
        except Exception as exc:
            stopped = self.state == "stopping" and isinstance(exc, SamplerError)  # closed in the middle of a call
            self.state, self.message = ("stopped", "") if stopped else ("failed", f"{type(exc).__name__}: {exc}")
        finally:
            with contextlib.suppress(SamplerError):  # an environment's `close` raised: all else is closed all the same
                await self._sampler.aclose()

    async def _learn(self, samples: Samples) -> None:
        self.timeline, self.batch_at = samples.stats.timeline, time.monotonic()
        if self._learner is not None:
            self._learner.learning_rate = self.settings.learning_rate
            self.loss = await asyncio.to_thread(self._learner.learn, samples)
            await self._sampler.apublish()

    async def evaluate(self, episodes: int) -> Evaluation:
        """Episodes with the newest parameters; cancelled, they are given up."""
        evaluation: Evaluation = await self._sampler.evaluate_agent(max_trajectories=episodes)
        return evaluation

    async def stop(self) -> None:
        """Have `work` end: at once where it waits, and after the batch that is being learned from otherwise."""
        if self.active:
            self.state = "stopping"
        with contextlib.suppress(SamplerError):
            await self._sampler.aclose()
