"""The first half of a start: the sampler process tries out environment and agent, then the arena is laid out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiosampler.agents.parameters import parameter_specs, store_specs
from aiosampler.agents.seeded_draws import SeededDraws
from aiosampler.engines.sampler_process import sampler_main
from aiosampler.errors import AgentError, ConfigError, WorkerTimeout, text_of
from aiosampler.memory.arena import Arena
from aiosampler.memory.arena_map import arena_views, plan_arena
from aiosampler.memory.room import check_batches, check_workers
from aiosampler.runtime import deadlines
from aiosampler.runtime.child_handle import ChildHandle
from aiosampler.runtime.fork_requests import ready_fork_server
from aiosampler.runtime.forking import forking
from aiosampler.runtime.resources import denied
from aiosampler.samplers.beside_loop import beside_loop
from aiosampler.samplers.shared_buffers import SharedBuffers
from aiosampler.signals.counter import Signal
from aiosampler.specs.seeding import Stream, stream_seed
from aiosampler.workers import messages
from aiosampler.workers.batch_mail import UserMail
from aiosampler.workers.random_streams import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.agents.agent import Agent
    from aiosampler.engines.in_process import InProcess
    from aiosampler.engines.kinds import EngineKind
    from aiosampler.memory.arena_map import ArenaViews, ProcessCounts
    from aiosampler.options import Options
    from aiosampler.samplers.session import Session
    from aiosampler.specs.arrays import Spaces


log = logging.getLogger("aiosampler")

#: Modules that a fork server imports for all samplers, with all that these import.
PRELOADED = (
    "torch",
    "gymnasium",
    "uvloop",
    "aiosampler.agents.categorical",
    "aiosampler.agents.dqn",
    "aiosampler.agents.gaussian",
    "aiosampler.agents.random",
    "aiosampler.engines.cpu_engine",
    "aiosampler.engines.devices_engine",
    "aiosampler.engines.sampler_process",
    "aiosampler.engines.serial_engine",
    "aiosampler.engines.trial",
    "aiosampler.memory.arena",
    "aiosampler.workers.local_acting",
    "aiosampler.workers.served_acting",
    "aiosampler.workers.worker_process",
)


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """The processes of one sampler.

    Attributes:
        engine: The engine that runs in the sampler process.
        counts: Numbers of workers, servers and groups.
        groups: For each group that an action server serves, the ranks of its workers.
        start_margin: Seconds beyond `start_timeout` for the sampler process to report which of its processes is late.
        in_process: Whether everything runs in the user's process.
    """

    engine: EngineKind
    counts: ProcessCounts
    groups: Sequence[range] = ()
    start_margin: float = 0.0
    in_process: bool = False


def debug_log(name: str) -> Callable[[str], None]:
    """A function that logs what a sampler does, without a reference to the sampler, which may be dropped."""
    return functools.partial(log.info, "%s: %s", name)


def no_log(what: str) -> None:
    """Does nothing; used in place of `debug_log` if `debug` is False."""


async def open_session(
    session: Session, options: Options, plan: ProcessPlan, agent: Agent, log: Callable[[str], None]
) -> tuple[SharedBuffers, messages.Probed, messages.Start]:
    """Start the sampler process, have it try out environment and agent, and set up the shared memory.

    Args:
        session: Its attributes `process` and `memory` are set.
        options: The sampler's arguments.
        plan: The plan of its processes.
        agent: The user's agent, which is initialised in this process, too.
        log: Called with the phases of the start.

    Returns:
        The shared memory, what trying out has found, and the request for the second half of the start.
    """
    _refuse_while_imported()
    check_batches(options.batch)
    if not plan.counts.alone:
        check_workers(plan.counts.workers)
    with denied("the shared memory cannot be made"):
        arena = Arena()
    mail: UserMail | None = None
    try:
        guest = _guest(log) if plan.in_process else None
        if guest is None:
            options = await _with_fork_server(options)
            session.check_open()
        if guest is None:
            session.process, mail = _start_process(arena, options, plan, log)
        else:
            session.process = guest
        limit = options.start_timeout and options.start_timeout + deadlines.START_MARGIN_S
        probed: messages.Probed = await session.ask_start(messages.Probe(options, plan.engine), limit)
        build = functools.partial(initialize_agent, agent, probed.spaces, options.seed, apart=probed.draws_apart)
        if probed.draws_apart and guest is None:
            await beside_loop(build)
        else:
            build()
        session.check_open()
        made = await beside_loop(functools.partial(_make_memory, arena, options, plan, agent, probed))
        session.check_open()
    finally:
        arena.close()
    session.memory, start, views = made
    agent.attach(session.memory.publisher)  # not before: who closes the sampler until here knows of no memory
    if guest is not None:
        guest.views = views
    elif mail is not None:
        mail.connect(views)
    return session.memory, probed, start


def _refuse_while_imported() -> None:
    """Refuse a module that starts a sampler whenever it is imported, as the processes of that sampler do.

    Each of these would start another sampler, whose processes import it in turn, and so on without an end.

    Raises:
        ConfigError: This is such a process: a module that we have imported is on the stack.
    """
    frame, module = sys._getframe(), None  # noqa: SLF001 - `inspect.stack` reads the source of all frames
    while frame.f_back is not None:
        frame = frame.f_back
        name = str(frame.f_globals.get("__name__"))
        if module is None:
            module = name if frame.f_code.co_name == "<module>" else None
        elif name.startswith("aiosampler.") and not name.startswith(("aiosampler.commands", "aiosampler.__main__")):
            raise ConfigError(
                f"the module {module!r} starts a sampler when it is imported, and the processes of the sampler import "
                'it, too: put what starts it below `if __name__ == "__main__":`, or into a function'
            )


def _make_memory(
    arena: Arena, options: Options, plan: ProcessPlan, agent: Agent, probed: messages.Probed
) -> tuple[SharedBuffers, messages.Start, ArenaViews]:
    """Lay out the arena, reserve its memory, and map it."""
    parameters = parameter_specs(agent.model)
    layout = plan_arena(
        options.batch,
        probed.specs,
        store_specs(parameters),
        plan.counts,
        options.eval_batch if plan.counts.servers else None,  # with servers, evaluation needs a slot in the arena
    )
    arena.grow(layout.total_bytes, layout.dense_bytes)
    views = arena_views(layout, arena.map(layout.total_bytes))
    shared = SharedBuffers(
        views,
        parameters,
        agent,
        traj_info_cls=options.payload.live["traj_info_cls"],
        counts=plan.counts,
        groups=plan.groups,
        debug=options.debug,
    )
    return shared, messages.Start(layout, probed.specs, parameters, options.affinity), views


def _guest(log: Callable[[str], None]) -> InProcess:
    from aiosampler.engines.in_process import InProcess  # imported only if needed, with all modules for stepping

    return InProcess(log)


async def _with_fork_server(options: Options) -> Options:
    """Start the fork server, if the options ask for one; return the options, with "spawn" if it cannot be used."""
    if options.start_method != "forkserver":
        return options
    try:
        async with asyncio.timeout(options.start_timeout):
            usable = await ready_fork_server(PRELOADED)
    except TimeoutError:  # it is an OSError, too, but of another meaning
        what = f"did not get on in start_timeout={options.start_timeout} s: it is still importing torch"
        raise WorkerTimeout(f"the fork server {what}", process="fork server") from None
    except OSError as exc:
        with denied("the fork server cannot be started"):
            raise exc
    return options if usable else dataclasses.replace(options, start_method="spawn", preload=None)


def _start_process(
    arena: Arena, options: Options, plan: ProcessPlan, log: Callable[[str], None]
) -> tuple[ChildHandle, UserMail]:
    with denied("there are no signals for the sampler process"), contextlib.ExitStack() as opened:
        to_user = Signal()
        opened.callback(to_user.close)
        signals = to_user, Signal()
        mail = UserMail(signals)
        opened.callback(mail.close)
        handle = ChildHandle(
            sampler_main,
            (arena, signals),
            name="sampler",
            start_method=options.start_method,
            preload=None if plan.counts.alone else options.preloaded,
            on_phase=log,
        )
        handle.attach(mail)
        opened.pop_all()
    return handle, mail


def initialize_agent(agent: Agent, spaces: Spaces, seed: int, *, apart: bool = False) -> None:
    """Build the model in this process as in the others, and leave its random generators as they were.

    An agent that had a model already, as one that is given to a second sampler, may keep it; if not, this is logged.

    Args:
        agent: The user's agent.
        spaces: The spaces of a single environment.
        seed: The sampler's seed.
        apart: Whether to draw from separate generators, so that other threads may draw meanwhile.

    Raises:
        AgentError: The agent raised. A `ConfigError` is passed on.
    """
    seed, before = stream_seed(seed, Stream.AGENT_INIT), agent.model
    try:
        with forking if apart else contextlib.nullcontext(), SeededDraws(seed) if apart else seeded(seed):
            agent.initialize(spaces)
    except ConfigError:
        raise
    except Exception as exc:
        raise AgentError(
            f"the agent raised {type(exc).__name__} in initialize(): {text_of(exc)}", process="user"
        ) from exc
    if before is not None and agent.model is not before:
        log.warning(
            "%s.initialize() has built the model anew: what the one before had learned is not in it, and an optimizer "
            "of that one trains nothing here; to go on with a model, build it only if `self.model is None`",
            type(agent).__name__,
        )
