"""The interfaces between the rooms, in one place; each names its real implementations.

How they meet in a sampler with an action server, from the user's process down::

    run_service(sock, service)                # every process of a sampler: `Service`
      engine.start()                          # the sampler process: `Engine`
      engine.collect(Collect(itr, slot))
        for t in range(T):                    # a pipeline, for its group of workers
          await inference.act(t)              # `Inference`: one step of the agent for all environments of the group
          group.send_actions()                # `Group`
          await group.observations()

and in a worker, or in the sampler process of the serial sampler::

    with acting.collecting(request):          # `Acting`: an agent of its own, or a server's
      source.begin(slot)
      for t in range(T):                      # a collector
        actions = source.act(t)               # `ActionSource`
        unit.step(actions, environments, row) # `EnvironmentUnit`
        if rule.reset_now(i):                 # `ResetRule`, where the episode of environment i ended
          unit.reset([i], ...)
        source.ended([i])
      source.finish(T, idle=False)

Nothing is imported here but for type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import gymnasium as gym

    from aiosampler.collectors.environment_access import Ask
    from aiosampler.collectors.step_row import StepRow
    from aiosampler.errors import SamplerError
    from aiosampler.runtime.service import ServiceChannel
    from aiosampler.specs.trees import Tree
    from aiosampler.workers.messages import Call, Called, Collect, Collected, Evaluate


class SamplerProcess(Protocol):
    """The sampler process as a session holds it: `ChildHandle`; `InProcess`, where there is none; one in the tests."""

    phase: str
    """What it was last seen doing."""

    @property
    def pid(self) -> int | None:
        """Process id."""

    async def send(self, message: Any) -> None:
        """Send a request; that nobody reads it is found out when the answer is received."""

    async def receive(self, timeout: float | None = None, reading: Callable[[], Reading] | None = None) -> Any:
        """The next answer; cancelling loses none. Raises what the process reports, or how it ended."""

    def notify(self, on_change: Callable[[], object]) -> None:
        """Have `on_change` called whenever something has come from it, and when it has ended."""

    def failing(self) -> bool:
        """Whether it has ended, or has reported a failure, so that `receive` raises before long."""

    async def stop(self, grace: float) -> SamplerError | None:
        """End it, within `grace` seconds and a few more; return what it had to report last."""

    def abandon(self) -> None:
        """Kill it, where its event loop is closed."""


class SamplerMemory(Protocol):
    """What a session needs of the memory that it shares with the sampler process: `SharedBuffers`, one in the tests."""

    def take_back(self) -> None:
        """The batch that was handed out last is the sampler's again."""

    def reading(self) -> Reading:
        """How far the sampler process is."""

    def abort_evaluation(self, wanted: bool) -> None:
        """End the evaluation under way at its next step, or allow the next one."""

    def abort_all(self) -> None:
        """End what is under way, in all processes, at its next step."""

    def release(self) -> None:
        """Let go of the memory."""


class Service(Protocol):
    """What one kind of process does: the sampler process, a server, a worker. `run_service` calls it."""

    async def run(self, parent: ServiceChannel) -> None:
        """Start, and answer requests; cancelled when the process is to end."""

    async def aclose(self) -> None:
        """Close whatever was opened; called once, after `run`."""

    def abort(self) -> None:
        """End what is under way as soon as possible; called from any thread."""

    def describe(self, error: BaseException) -> SamplerError:
        """Make the error that the user sees of one that ends this process."""


class Reading(Protocol):
    """How far a process says that it is. Equal readings mean that it has not moved; `str` names what it has in hand."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for others, for as long as they take."""

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes for the error of a process that is stuck there, or died there."""


class Engine(Protocol):
    """What the sampler process does for one kind of sampler.

    Four: everything in place (serial), workers with agents, workers with one action server, servers in processes of
    their own.
    """

    runs_ahead: bool
    """Whether `collect` may be called while the batch before is being collected; they end in their order."""

    async def start(self) -> None:
        """Start workers, build environments, reset them."""

    async def collect(self, request: Collect) -> Collected:
        """Fill a slot; return the episodes that ended, and what was lost."""

    async def evaluate(self, request: Evaluate) -> Collected:
        """Evaluate; return the episodes that ended, and what was lost."""

    async def call(self, request: Call) -> Called:
        """Have environments do something between two batches; return what they answered, and what was lost."""

    async def aclose(self) -> None:
        """Close the environments and end the workers; idempotent."""


class Group(Protocol):
    """Workers that step together, and their contiguous slice of the environments, as an action server sees them.

    `WorkerGroup`, and a group in memory in the tests.
    """

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait."""

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""

    def attend(self) -> None:
        """Move this thread to where the actions of this group are best computed; the workers wait."""

    def send_actions(self) -> None:
        """Release the workers that step: their actions are written."""

    def make_room(self) -> None:
        """Move this thread to where it is not in the way of the workers that were released."""

    def dismiss(self) -> None:
        """Release all workers: nothing more is written to this batch."""


class Inference(Protocol):
    """The stage of a pipeline that acts for a group's columns of the slots: in place, or on a CUDA device."""

    def prepare(self, itr: int) -> None:
        """Put the agent into the mode of a batch, or of an evaluation that begins."""

    def begin(self, slot: int) -> None:
        """A batch begins in `slot`."""

    async def act(self, t: int) -> None:
        """Write action, previous action and agent info for row t, whose observations are there."""

    def released(self, t: int) -> None:
        """The workers take step t."""

    def record_rest(self, t: int) -> None:
        """Record what the workers do not wait for."""

    def stepped(self, t: int) -> None:
        """The workers have taken step t."""

    def finish(self, T: int, *, idle: bool) -> None:
        """The batch is complete, its row T written; if `idle`, all environments wait. Values are recorded now."""

    def lost(self, environments: Iterable[int]) -> None:
        """These of the group's environments begin anew with the next batch."""


class Acting(Protocol):
    """Who acts for the environments of one process: an agent there (`LocalActing`), or a server (`ServedActing`)."""

    def source(self, slots: Sequence[dict[str, Tree]], *, batches: bool) -> ActionSource:
        """Make the source of actions for some columns of some slots.

        Args:
            slots: Cut to these columns.
            batches: Whether they are wanted as they are recorded, in place of one for each environment.
        """

    def starting(self) -> AbstractContextManager[object]:
        """Around building and resetting the environments."""

    def collecting(self, request: Collect) -> AbstractContextManager[object]:
        """Around filling a slot."""

    def evaluating(self, request: Evaluate) -> AbstractContextManager[object]:
        """Around an evaluation."""

    def calling(self, *, evaluation: bool) -> AbstractContextManager[object]:
        """Around calls of environments between two batches."""

    def abort(self) -> None:
        """End what is being collected at its next step; called from any thread."""


class ActionSource(Protocol):
    """Chooses and records the actions of a collector's n environments: `LocalAgent`, `ServedActions`."""

    def begin(self, slot: int) -> None:
        """A batch begins in `slot`; its row 0 is written."""

    def act(self, t: int) -> Any:
        """Record action, previous action and agent info of step t; return an action for each environment."""

    def ended(self, environments: Sequence[int]) -> None:
        """These environments have been reset, or wait for it: their recurrent state is void."""

    def finish(self, T: int, *, idle: bool) -> None:
        """The batch is complete, its row T written; if `idle`, all environments wait and there is nothing to act on."""


class ResetRule(Protocol):
    """What happens when an episode ends: `MidBatchReset`, `WaitReset`, `Quota` for evaluation."""

    resets_at_begin: bool
    """Whether environments that wait are reset when the next batch begins."""

    def reset_now(self, i: int) -> bool:
        """Whether environment i, whose episode just ended, is reset at once; otherwise it waits."""


#: Told of each environment that was reset: its column, observation and info.
OnReset: TypeAlias = "Callable[[int, Any, Any], object]"
#: Told of each environment that was stepped: its column, and the five values of `step`.
OnStep: TypeAlias = "Callable[[int, Any, Any, Any, Any, Any], object]"


class EnvironmentUnit(Protocol):
    """The n environments of a collector, however they are stepped; `i` counts them.

    Three: `SingleEnvironments`, one after the other; `VectorEnvironments`, in one call; `CoroutineEnvironments`, all
    awaited together. All methods return when what they do is done, and are called in the thread of the process's event
    loop, while that does not run. What an environment returned is handed over before a buffer of its may be written to
    again. Errors are `EnvironmentFault`, which names the environment, and progress is told in the cells of the process,
    so that one that is stuck is named.
    """

    pauses: bool
    """Whether an environment that is left out of a step stays as it is."""

    takes_batches: bool
    """Whether `step` takes actions as they are recorded, a tree of arrays ``[n, ...]``, in place of one for each."""

    def action_space(self, i: int) -> gym.Space[Any]:
        """The action space of environment i."""

    def reset(
        self,
        environments: Sequence[int],
        seeds: Sequence[int] | None,
        options: Sequence[Mapping[str, Any] | None],
        on_reset: OnReset,
        *,
        phase: Callable[[str], None] | None = None,
        anew: bool = False,
    ) -> Sequence[int]:
        """Reset environments.

        Args:
            environments: Which.
            seeds: Of all n; None for none.
            options: For all n, what they get as ``options``; None of one that gets none.
            on_reset: Told of each.
            phase: Told what is being done, when it starts.
            anew: Whether no episode of any of the n is to go on.

        Returns:
            Those of which `on_reset` was not told, since they cannot be reset now. They take no step until `step` tells
            `StepRow.start` of them; the rows until then are blank.
        """

    def check_reset_options(self) -> None:
        """Whether resets may have options.

        Raises:
            ConfigError: They would be ignored.
        """

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step environments, and record what they return.

        Args:
            actions: One for each of the n, which an environment may keep.
            environments: Which; the same list as long as they do not change, the ones that start not among them.
            row: Told of each, by `record` or what that stands for; of those that start, by `start`; in its `lost`, of
                those that were given up, and are to start later.
        """

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Take a step in the environments that have an action here; all have, where environments do not pause."""

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Have environments do something.

        Args:
            ask: What.
            name: Of a method or an attribute.
            packed: Each environment, and its packed arguments.

        Yields:
            Each environment, and its packed result, or what it raised.
        """

    def close(self) -> None:
        """Close all environments; idempotent."""
