"""The action servers: how the pipelines of their groups run beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from aiosampler.runtime.tasks import all_or_first_error
from aiosampler.servers.pipeline import Pipeline, Turns, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence


class AsyncActionServer:
    """Serves one group of workers, which step while the agent waits, and wait while it infers.

    It is a part of `AsyncGpuSampler`; it runs in the sampler process or, with several devices, in a process for each.

    Args:
        training: One pipeline for each group.
        evaluation: The same for the evaluation environments, without groups that have none.
        T: Steps of a batch.
        abort_evaluation: Array of one element: not zero ends an evaluation at its next step.
    """

    #: How many groups the workers form.
    n_groups: ClassVar[int] = 1

    def __init__(
        self,
        training: Sequence[Pipeline],
        evaluation: Sequence[Pipeline],
        *,
        T: int,
        abort_evaluation: Any,
    ) -> None:
        self._training, self._evaluation = training, evaluation
        self._T, self._abort = T, abort_evaluation

    async def serve_actions(self, itr: int, slot: int) -> None:
        """Act for the groups until the batch is complete.

        Args:
            itr: Number of the batch.
            slot: Index of the slot that it is recorded in.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        for pipeline in self._training:
            pipeline.inference.prepare(itr)
        await self._serve(self._training, slot, self._T, abort=(False,))

    async def serve_actions_evaluation(self, itr: int, chunks: Iterable[int]) -> None:
        """Act for the groups until every quota is met, or the steps are used up.

        Args:
            itr: What the agent's `eval_mode` gets.
            chunks: Numbers of steps; each part is written to the slot from its first row on.

        Raises:
            Aborted: The evaluation was aborted.
            AgentFault: The agent raised, or returned what does not fit.
        """
        for pipeline in self._evaluation:
            pipeline.inference.prepare(itr)
        for T in chunks:
            pipelines = [pipeline for pipeline in self._evaluation if pipeline.group.stepping]
            if not pipelines:
                break
            await self._serve(pipelines, 0, T, abort=self._abort)

    def _serve(self, pipelines: Sequence[Pipeline], slot: int, T: int, *, abort: Any) -> Awaitable[object]:
        (pipeline,) = pipelines
        return serve(pipeline, slot, T, abort=abort)


class AsyncAlternatingActionServer(AsyncActionServer):
    """Serves two groups of workers: while the agent infers for one, the other steps. Both run freely."""

    n_groups = 2

    def _serve(self, pipelines: Sequence[Pipeline], slot: int, T: int, *, abort: Any) -> Awaitable[object]:
        turns = self._turns() if len(pipelines) == 2 else None
        return all_or_first_error(
            serve(pipeline, slot, T, abort=abort, turns=turns, late=i == 1) for i, pipeline in enumerate(pipelines)
        )

    def _turns(self) -> Turns | None:
        return None


class AsyncNoOverlapAlternatingActionServer(AsyncAlternatingActionServer):
    """Serves two groups of workers that never step at the same time.

    While one steps, the agent infers for the other; when both are done, they swap.
    """

    def _turns(self) -> Turns | None:
        return Turns()
