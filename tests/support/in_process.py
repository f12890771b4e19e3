"""The runner of the serial sampler and of CPU workers, driven without any process."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from aiosampler.agents.parameters import parameter_specs, store_specs
from aiosampler.engines.probe import probe
from aiosampler.memory.arena_map import ProcessCounts, arena_views, plan_arena
from aiosampler.samplers.evaluation import Evaluation
from aiosampler.samplers.samples import SlotSamples
from aiosampler.samplers.serial import AsyncSerialSampler
from aiosampler.samplers.timeline import empty_timeline
from aiosampler.specs.part import WHOLE
from aiosampler.workers.episodes import EpisodeInfos, unpack_episodes
from aiosampler.workers.local_acting import local_runner
from aiosampler.workers.messages import Collect, Evaluate, Share, Start


class InProcess:
    """Collects batches in the test's own process; takes a sampler's arguments, and which of several it is."""

    def __init__(self, env_fn, part=WHOLE, max_worker_restarts=0, **arguments):
        sampler = AsyncSerialSampler(env_fn, **arguments)
        self.options = options = dataclasses.replace(
            sampler.options, part=part, max_worker_restarts=max_worker_restarts
        )
        self.seed = sampler.seed
        self.probed = probe(options, lambda phase: None)
        agent = options.payload.load("agent")
        agent.initialize(self.probed.spaces)
        parameters = parameter_specs(agent.model)
        layout = plan_arena(options.batch, self.probed.specs, store_specs(parameters), ProcessCounts(1), None)
        views = arena_views(layout, bytearray(layout.total_bytes))
        self.views, self.slots = views, views.slots
        self._start = Start(layout, self.probed.specs, parameters, None)
        self.runner = self.new_runner()
        self.runner.start()
        self.itr = 0

    def new_runner(self):
        return local_runner(
            options=self.options,
            probed=self.probed,
            start=self._start,
            views=self.views,
            share=Share(0, range(self.options.batch.B), range(self.options.eval_n_envs)),
            phase=lambda phase: None,
        )

    def collect(self):
        finished = self.runner.collect(Collect(self.itr, self.itr % 2))
        slot = self.slots[self.itr % 2]
        facts = SimpleNamespace(itr=self.itr, policy_version=0, seconds=1.0, losses=())
        self.itr += 1
        episodes = EpisodeInfos([finished], self.options.payload.live["traj_info_cls"])
        return SlotSamples(slot).full(facts, episodes, empty_timeline(), self.itr - 1)

    def evaluate(self):
        return Evaluation(self._episodes(self.runner.evaluate(Evaluate(self.itr))))

    def _episodes(self, finished):
        return unpack_episodes([finished], self.options.payload.live["traj_info_cls"])

    def close(self):
        self.runner.close()


def join(batches, part):
    """Concatenate one leaf over batches along time."""
    return np.concatenate([part(batch).numpy().copy() for batch in batches])


def gather(sampler, n):
    """Copies of the next n batches; the sampler is closed then."""
    batches = [sampler.collect().clone() for _ in range(n)]
    sampler.close()
    return batches
