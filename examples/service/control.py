"""Starting, changing and ending runs: one at a time, in the order in which it is asked for."""

import asyncio
from typing import Any

from aiosampler import Evaluation
from service.catalog import Settings
from service.run import Run


class Conflict(Exception):
    """What is asked for does not go with what runs, or does not run; the message is a sentence."""


class Control:
    """Has one run at most. Its tasks belong to a task group, that of the service's lifespan.

    Attributes:
        run: The current or last run.
    """

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self.run: Run | None = None
        self._working: asyncio.Task[None] | None = None
        self._order = asyncio.Lock()
        self._evaluating = False

    async def start(self, settings: Settings) -> None:
        """Begin a run, which then starts by itself.

        Raises:
            Conflict: There is one.
            ConfigError: The settings do not fit together.
        """
        async with self._order:
            if self.run is not None and self.run.active:
                raise Conflict(f"a run is {self.run.state} already: change it by PATCH, or end it by DELETE")
            self._begin(Run(settings))

    async def change(self, changes: dict[str, Any]) -> None:
        """Go on with other settings, and what was learned, where it fits: with another sampler, if need be.

        Raises:
            Conflict: There is no run to change.
            ConfigError: The settings do not fit together; the run goes on as it was.
        """
        async with self._order:
            run = self.run
            if run is None or not run.active:
                raise Conflict("there is no run that could be changed: start one by POST")
            settings = Settings.model_validate({**run.settings.model_dump(), **changes})
            if settings.model_copy(update={"learning_rate": run.settings.learning_rate}) == run.settings:
                run.settings = settings
                return
            Run(settings)  # refused before the old one is ended
            await self._end()
            self._begin(Run(settings, before=run))

    async def stop(self) -> None:
        """End the run, if there is one, and wait until it has ended."""
        async with self._order:
            await self._end()

    async def evaluate(self, episodes: int) -> Evaluation:
        """Evaluate between two batches; cancelled, the evaluation is given up.

        Raises:
            Conflict: Nothing runs, or another evaluation does.
            SamplerError: The sampler was closed, or failed.
        """
        if self.run is None or self.run.state != "running":
            state = "idle" if self.run is None else self.run.state
            raise Conflict(f"there is nothing to evaluate: the run is {state}")
        if self._evaluating:
            raise Conflict("an evaluation is under way already: ask again when it has ended")
        self._evaluating = True
        try:
            return await self.run.evaluate(episodes)
        finally:
            self._evaluating = False

    def _begin(self, run: Run) -> None:
        self.run = run
        self._working = self._tasks.create_task(run.work(), name="run")

    async def _end(self) -> None:
        if self.run is not None and self._working is not None:
            await self.run.stop()
            await asyncio.wait((self._working,))
