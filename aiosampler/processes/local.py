"""Environments, agent and collectors together in one process: all of the serial sampler, or one CPU worker's share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.agents.parameters import ParameterStore
from aiosampler.collectors.collector import Collector, columns
from aiosampler.collectors.environments import blame
from aiosampler.collectors.local_agent import LocalAgent, call_agent
from aiosampler.collectors.rules import MidBatchReset, Quota, WaitReset, split_evenly
from aiosampler.processes.arena_map import ABORT, ABORT_EVALUATION, slot_arrays
from aiosampler.processes.episodes import pack_episodes
from aiosampler.processes.probe import initialize_agent
from aiosampler.processes.random_streams import RandomStreams
from aiosampler.specs.batch import BatchSpec, slot_specs, sparse_specs
from aiosampler.specs.seeding import environment_seed
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosampler.collectors.collector import FinishedEpisode
    from aiosampler.processes.cargo import Cargo
    from aiosampler.processes.messages import Probed, Share, Start


class LocalRunner:
    """Collects and evaluates a share of the environments with an agent on the CPU.

    Args:
        cargo: The user's objects.
        probed: What was learned about them.
        start: Layout and specs.
        arrays: Views of the arena.
        share: Which environments are ours.
        reader: Index among the readers of parameters; None if another process adopts them for this one.
        phase: Told what is being done.
    """

    def __init__(
        self,
        *,
        cargo: Cargo,
        probed: Probed,
        start: Start,
        arrays: Tree,
        share: Share,
        reader: int | None,
        phase: Callable[[str], None],
    ) -> None:
        self._cargo, self._probed, self._start, self._arrays = cargo, probed, start, arrays
        self._share, self._phase, self._job = share, phase, cargo.job
        self._closing = contextlib.ExitStack()
        self._agent = cargo.agent()
        initialize_agent(self._agent, probed.spaces, self._job.seed)
        store = ParameterStore(arrays["dense"]["parameters"], start.parameters, reader)
        if self._agent.model is not None:
            store.bind(self._agent.model)
        self._agent.attach(store)
        self._random = RandomStreams(self._job.seed, share.rank)
        self._quota = Quota(None)
        self._kind = cargo.load("traj_info_cls")
        self._traj_info = cargo.traj_info_factory(self._kind)

    def start(self) -> None:
        """Build all environments and reset them."""
        job, share = self._job, self._share
        with torch.inference_mode():
            call_agent(
                "collector_initialize()",
                self._agent.collector_initialize,
                job.batch.B,
                list(share.environments),
            )
            self._collector = self._make_collector(
                share.environments,
                slot_arrays(self._arrays),
                MidBatchReset() if job.mid_batch_reset else WaitReset(),
                evaluation=False,
            )
            if share.evaluation:
                episodes = None
                if job.eval_max_trajectories is not None:
                    quotas = split_evenly(job.eval_max_trajectories, job.eval_n_envs)
                    episodes = quotas[share.evaluation.start : share.evaluation.stop]
                self._quota = Quota(episodes)
                batch = BatchSpec(T=min(job.batch.T, job.eval_steps_each), B=job.eval_n_envs)
                self._eval_rows = batch.T
                specs = slot_specs(batch, self._start.specs)
                specs["final_observation"] = sparse_specs(batch, self._start.specs)
                slot = tree_map(lambda spec: np.zeros(spec.shape, spec.dtype), specs)
                self._evaluator = self._make_collector(share.evaluation, [slot], self._quota, evaluation=True)
            self._collector.start(self._phase, job.max_decorrelation_steps, job.seed)

    def adopt(self) -> int:
        """Take over the newest parameters; return their version."""
        version: int = call_agent("recv_shared_memory()", self._agent.recv_shared_memory)
        return version

    def collect(self, itr: int, slot: int) -> bytes:
        """Fill this share of a slot; return the episodes that ended, packed."""
        with torch.inference_mode():
            call_agent("sample_mode()", self._agent.sample_mode, itr)
            return pack_episodes(self._collector.collect(slot, self._job.batch.T), self._kind)

    def evaluate(self, itr: int) -> bytes:
        """Run new episodes until every quota is met, or the steps are used up; return them, packed."""
        finished: list[FinishedEpisode] = []
        with torch.inference_mode(), self._random.evaluation():
            call_agent("eval_mode()", self._agent.eval_mode, itr)
            self._quota.renew()
            self._evaluator.restart(self._quota.starts)
            done = 0
            while done < self._job.eval_steps_each and not self._evaluator.idle:
                T = min(self._eval_rows, self._job.eval_steps_each - done)
                finished += [episode._replace(t=done + episode.t) for episode in self._evaluator.collect(0, T)]
                done += T
        return pack_episodes(finished, self._kind)

    def close(self) -> None:
        """Close every environment that was built; idempotent."""
        self._closing.close()

    def _make_collector(
        self, environments: range, slots: list[dict[str, Any]], rule: Any, *, evaluation: bool
    ) -> Collector:
        job, first, n = self._job, environments.start, len(environments)
        ours = [columns(slot, first, n) for slot in slots]
        built: list[Any] = []
        for b in environments:
            self._phase(f"building {'evaluation ' if evaluation else ''}environment {b}")
            env = self._cargo.environment(b, evaluation=evaluation)
            built.append(env)
            self._closing.callback(self._close_environment, env, b, evaluation)
        dense = self._arrays["dense"]
        abort = ABORT_EVALUATION if evaluation else ABORT
        return Collector(
            environments=built,
            seeds=[environment_seed(job.seed, b, evaluation=evaluation) for b in environments],
            first=first,
            slots=ours,
            specs=self._start.specs,
            actions=LocalAgent(self._agent, self._probed.spaces.action, ours),
            rule=rule,
            traj_info=self._traj_info,
            cells=dense["progress"][self._share.rank],
            abort=dense["control"][abort : abort + 1],
            evaluation=evaluation,
        )

    def _close_environment(self, env: Any, b: int, evaluation: bool) -> None:
        with blame("closing", b, evaluation):
            env.close()
