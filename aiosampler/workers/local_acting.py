"""Acting by an agent in the process of the environments: in the serial sampler, and in the workers of the CPU one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from aiosampler.agents.adopted import AdoptedParameters
from aiosampler.collectors.local_agent import (
    LocalAgent,
    bind_parameters,
    call_agent,
    use_parameters,
    verify_parameters,
)
from aiosampler.memory.arena_map import private_eval_slot
from aiosampler.workers.factories import build_agent
from aiosampler.workers.random_streams import RandomStreams
from aiosampler.workers.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiosampler.agents.agent import Agent
    from aiosampler.interfaces import ActionSource
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.options import Options
    from aiosampler.workers.messages import Collect, Evaluate, Probed, Share, Start
    from aiosampler.workers.runner import Columns


def local_runner(
    *, options: Options, probed: Probed, start: Start, views: ArenaViews, share: Share, phase: Callable[[str], None]
) -> Runner:
    """Build the agent in this process, and make the runner that steps a share of the environments with it.

    Args:
        options: The sampler's arguments.
        probed: What trying out environment and agent has found.
        start: Layout and specs.
        views: Views of the arena.
        share: The environments of this process.
        phase: Called with the phases of the start.
    """
    return Runner(
        options=options,
        specs=start.specs,
        views=views,
        share=share,
        eval_slot=private_eval_slot(options.eval_batch, start.specs) if options.eval_batch else {},
        aborts=(views.control.abort_batch, views.control.abort_evaluation),
        acting=LocalActing(options, probed, start, views, share),
        phase=phase,
        vector=probed.vector,
        coroutines=probed.coroutines,
    )


class LocalActing:
    """Builds the agent, and makes it use the parameters that the sampler process has adopted for a batch.

    Args:
        options: The sampler's arguments.
        probed: What trying out environment and agent has found.
        start: Layout and specs.
        views: Views of the arena.
        share: The environments of this process.
    """

    def __init__(self, options: Options, probed: Probed, start: Start, views: ArenaViews, share: Share) -> None:
        self._control = views.control
        part, B, self._may_be_lost = options.part, options.batch.B, options.max_worker_restarts > 0
        self._B, self._action_space = part.all(B), probed.spaces.action
        self._environments = [part.first(B) + b for b in share.environments]
        self._agent = agent = build_agent(options.payload, probed.spaces, options.seed)
        self._parameters = AdoptedParameters(views.parameters, start.parameters)
        bind_parameters([agent], self._parameters)
        self._random = RandomStreams(options.seed, self._environments[0], part.restarts + share.generation)

    def source(self, slots: Columns, *, batches: bool) -> ActionSource:
        """Make an action source for some columns of some slots."""
        return LocalAgent(self._agent, self._action_space, slots, batches=batches, values_at_ends=self._may_be_lost)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """A context around building and resetting the environments."""
        with torch.inference_mode():
            call_agent("collector_initialize()", self._agent.collector_initialize, self._B, self._environments)
            yield

    def collecting(self, request: Collect) -> contextlib.AbstractContextManager[None]:
        """A context around filling a slot."""
        return _Collecting(self._agent, self._parameters, request)

    @contextlib.contextmanager
    def evaluating(self, request: Evaluate) -> Iterator[None]:
        """A context around an evaluation, which draws from random streams of its own."""
        with self._random.evaluation():
            use_parameters([self._agent], self._parameters, request.parameters)
            with torch.inference_mode():
                call_agent("eval_mode()", self._agent.eval_mode, request.itr)
                yield
                verify_parameters([self._agent], self._parameters)

    def calling(self, *, evaluation: bool) -> contextlib.AbstractContextManager[None]:
        """A context around calls of environments; those of evaluation draw from its random streams."""
        return self._random.evaluation() if evaluation else contextlib.nullcontext()

    def abort(self) -> None:
        """End collecting and evaluating at the next step, in all processes; callable from any thread."""
        self._control.abort_all()


class _Collecting:
    """The context around filling a slot; a class, since one that is made of a generator takes twice as long.

    Args:
        agent: The agent.
        parameters: The adopted parameters.
        request: The request.
    """

    __slots__ = ("_agents", "_inference", "_parameters", "_request")

    def __init__(self, agent: Agent, parameters: AdoptedParameters, request: Collect) -> None:
        self._agents, self._parameters, self._request = (agent,), parameters, request
        self._inference = torch.inference_mode()

    def __enter__(self) -> None:
        """Use the parameters of the request."""
        use_parameters(self._agents, self._parameters, self._request.parameters)
        self._inference.__enter__()
        try:
            call_agent("sample_mode()", self._agents[0].sample_mode, self._request.itr)
        except BaseException:
            self._inference.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Check that the agent has not changed them."""
        try:
            if kind is None:
                verify_parameters(self._agents, self._parameters)
        finally:
            self._inference.__exit__(None, None, None)
