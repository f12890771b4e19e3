"""Environments and agent together in one process: all of the serial sampler, or one CPU worker's share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from aiosampler.agents.parameters import AdoptedParameters
from aiosampler.collectors.local_agent import LocalAgent, call_agent
from aiosampler.memory.arena_map import eval_slot_specs
from aiosampler.specs.trees import tree_map
from aiosampler.workers.payload import initialize_agent
from aiosampler.workers.random_streams import RandomStreams
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.workers.messages import Collect, Evaluate, Probed, Share, Start
    from aiosampler.workers.payload import Payload


class LocalRunner:
    """Collects and evaluates a share of the environments with an agent on the CPU.

    Args:
        payload: The user's objects.
        probed: What was learned about them.
        start: Layout and specs.
        views: Of the arena.
        share: Which environments are ours.
        phase: Told what is being done.
    """

    def __init__(
        self,
        *,
        payload: Payload,
        probed: Probed,
        start: Start,
        views: ArenaViews,
        share: Share,
        phase: Callable[[str], None],
    ) -> None:
        job, self._control = payload.job, views.control
        self._B, self._environments = job.batch.B, list(share.environments)
        self._agent = agent = payload.agent()
        initialize_agent(agent, probed.spaces, job.seed)
        self._parameters = AdoptedParameters(views.parameters, start.parameters)
        if agent.model is not None:
            self._parameters.bind(agent.model)
        agent.attach(self._parameters)
        self._random = RandomStreams(job.seed, share.rank, share.generation)
        eval_specs = eval_slot_specs(job.eval_batch, start.specs) if job.eval_batch else {}
        self._runner = Runner(
            payload=payload,
            specs=start.specs,
            views=views,
            share=share,
            eval_slot=tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), eval_specs),
            aborts=(self._control.abort_batch, self._control.abort_evaluation),
            source=lambda slots: LocalAgent(agent, probed.spaces.action, slots),
            phase=phase,
        )

    def start(self) -> None:
        """Build all environments and reset them."""
        with torch.inference_mode():
            call_agent("collector_initialize()", self._agent.collector_initialize, self._B, self._environments)
            self._runner.start()

    def collect(self, request: Collect) -> bytes:
        """Fill this share of a slot; return the episodes that ended, packed."""
        itr, slot, parameters = request
        self._use(parameters)
        with torch.inference_mode():
            call_agent("sample_mode()", self._agent.sample_mode, itr)
            return self._runner.collect(slot)

    def evaluate(self, request: Evaluate) -> bytes:
        """Run new episodes until every quota is met, or the steps are used up; return them, packed."""
        itr, parameters = request
        self._use(parameters)
        with torch.inference_mode(), self._random.evaluation():
            call_agent("eval_mode()", self._agent.eval_mode, itr)
            return self._runner.evaluate()

    def _use(self, parameters: int) -> None:
        self._parameters.select(parameters)
        call_agent("recv_shared_memory()", self._agent.recv_shared_memory)

    def abort(self) -> None:
        """End what is being collected, here and in all other processes, at its next step; from any thread."""
        self._control.abort_all()

    def close(self) -> None:
        """Close every environment that was built; idempotent."""
        self._runner.close()
