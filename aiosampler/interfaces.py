"""The interfaces between the packages, in one place; each names its implementations.

How they are called in a sampler with an action server, from the user's process down::

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

All imports here are for type checkers only.
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
    """A session's handle on the sampler process: `ChildHandle`, `InProcess` (no process), a fake in the tests."""

    phase: str
    """What it was last seen doing."""

    @property
    def pid(self) -> int | None:
        """Process id."""

    async def send(self, message: Any) -> None:
        """Send a request. If the process has ended, `receive` raises that, not this call."""

    async def receive(self, timeout: float | None = None, reading: Callable[[], Reading] | None = None) -> Any:
        """Receive the next answer; cancelling loses none. Raises what the process reports, or `WorkerDied`."""

    def notify(self, on_change: Callable[[], object]) -> None:
        """Call `on_change` whenever a message has arrived, and when the process has ended."""

    def failing(self) -> bool:
        """Whether it has ended or reported a failure, so that `receive` will raise."""

    async def stop(self, grace: float) -> SamplerError | None:
        """End the process within `grace` seconds and a few more; return the last failure that it reported."""

    def abandon(self) -> None:
        """Kill the process without awaiting anything, since the event loop is closed."""


class SamplerMemory(Protocol):
    """The memory that a session shares with the sampler process: `SharedBuffers`, a fake in the tests."""

    def take_back(self) -> None:
        """Give the batch that was returned last back to the sampler, which may overwrite it."""

    def reading(self) -> Reading:
        """Read the progress of the sampler process."""

    def abort_evaluation(self, wanted: bool) -> None:
        """End the current evaluation at its next step (True), or allow the next one (False)."""

    def abort_all(self) -> None:
        """End batches and evaluations in all processes at their next step."""

    def release(self) -> None:
        """End all use of the memory, at once; idempotent."""

    def unmap(self) -> None:
        """`release`, and drop the views of the memory; after `release` it may be called in any thread."""


class Mail(Protocol):
    """A second way for some messages of a channel: `UserMail`, `SamplerMail`. Its signals are closed with it."""

    def fileno(self) -> int:
        """The descriptor that is readable while messages may have arrived."""

    def clear(self) -> None:
        """Make the descriptor unreadable until the next message."""

    def post(self, message: Any) -> bool:
        """Send a message; return False for one that must go over the socket."""

    def take(self) -> Any:
        """The message that has arrived; None if there is none."""

    def close(self) -> None:
        """Close the signals, and refer to no shared memory any more; idempotent."""


class Service(Protocol):
    """What one kind of child process does: sampler process, trial, server, worker. `run_service` calls it."""

    async def run(self, parent: ServiceChannel) -> None:
        """Start, and answer requests; cancelled when the process must end."""

    async def aclose(self) -> None:
        """Close whatever was opened; called once, after `run`."""

    def abort(self) -> None:
        """End the current work as soon as possible; called from any thread."""

    def describe(self, error: BaseException) -> SamplerError:
        """Turn an exception that ends this process into the error that the user sees."""


class Reading(Protocol):
    """The progress of a process. Equal readings mean no progress; ``str()`` names what the process is working on."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for another process, so that it is not stuck."""

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes for the error of a process that is stuck or has ended at this point."""


class Engine(Protocol):
    """What the sampler process does for one kind of sampler.

    `SerialEngine` does everything in place, `CpuEngine` has workers with agents, `ServedEngine` and `DynamicEngine`
    have workers and an action server, `DevicesEngine` has a server process for each device.
    """

    runs_ahead: bool
    """Whether `collect` may be called while the batch before is being collected; they end in their order."""

    async def start(self) -> None:
        """Start workers, build environments, reset them."""

    async def announce(self, request: Collect) -> bool:
        """Announce the batch after the current one, whose slot is free; an engine may use that to begin earlier.

        Suspends until that batch may begin, and returns True; or returns False if it may when the current one is
        complete.
        """

    async def collect(self, request: Collect) -> Collected:
        """Fill a slot; return the episodes that ended, and what was lost."""

    async def evaluate(self, request: Evaluate) -> Collected:
        """Evaluate; return the episodes that ended, and what was lost."""

    async def call(self, request: Call) -> Called:
        """Call environments between two batches; return their results, and what was lost."""

    async def aclose(self) -> None:
        """Close the environments and end the workers; idempotent."""


class Group(Protocol):
    """Workers that step together, and their contiguous slice of the environments, for an action server.

    Implemented by `WorkerGroup`, and by a fake in the tests.
    """

    @property
    def stepping(self) -> bool:
        """Whether any worker still has an environment that does not wait for its reset."""

    async def observations(self) -> bool:
        """Suspend until all workers that step have written their observations; return `stepping`."""

    def attend(self) -> None:
        """Move this thread to the CPUs on which it acts for this group; the workers wait meanwhile."""

    def send_actions(self) -> None:
        """Release the workers that step, after their actions were written."""

    def make_room(self) -> None:
        """Move this thread off the CPUs of the workers that were released."""

    def dismiss(self) -> None:
        """Release all workers at the end of a batch, after everything was written."""


class Inference(Protocol):
    """The stage of a pipeline that steps the agent for a group: `InPlaceInference`; `DeviceInference` on a device."""

    def prepare(self, itr: int) -> None:
        """Set the agent's mode for a batch, or for an evaluation, that begins."""

    def begin(self, slot: int) -> None:
        """A batch begins in `slot`."""

    async def act(self, t: int) -> None:
        """Step the agent on row t, whose observations are written, and write its actions."""

    def released(self, t: int) -> None:
        """Called when the workers were released to take step t."""

    def record_rest(self, t: int) -> None:
        """Write what the workers did not have to wait for, such as the agent info."""

    def stepped(self, t: int) -> None:
        """Called when the workers have taken step t."""

    def finish(self, T: int, *, idle: bool) -> None:
        """End a batch whose row T is written: record values. With `idle`, all environments wait for their reset."""

    def lost(self, environments: Iterable[int]) -> None:
        """Called when these environments of the group were lost, and begin anew with the next batch."""


class DeviceGenerator(Protocol):
    """The random generator of a device, as `GroupStream` uses it: `Accelerator`."""

    def manual_seed(self, seed: int) -> object:
        """Seed the generator."""

    def get_state(self) -> Any:
        """The state of the generator."""

    def set_state(self, state: Any) -> object:
        """Set the state of the generator."""


class Acting(Protocol):
    """How a process's environments get actions, from an agent there (`LocalActing`) or a server (`ServedActing`)."""

    def source(self, slots: Sequence[dict[str, Tree]], *, batches: bool) -> ActionSource:
        """Make an action source for some columns of some slots.

        Args:
            slots: Arrays of the slots, cut to these columns.
            batches: Whether `act` returns a tree of arrays ``[n, ...]`` in place of a sequence of n actions.
        """

    def starting(self) -> AbstractContextManager[object]:
        """A context around building and resetting the environments."""

    def collecting(self, request: Collect) -> AbstractContextManager[object]:
        """A context around filling a slot."""

    def evaluating(self, request: Evaluate) -> AbstractContextManager[object]:
        """A context around an evaluation."""

    def calling(self, *, evaluation: bool) -> AbstractContextManager[object]:
        """A context around calls of environments between two batches."""

    def abort(self) -> None:
        """End collecting at the next step; called from any thread."""


class ActionSource(Protocol):
    """Provides and records the actions of a collector's n environments: `LocalAgent`, `ServedActions`."""

    def begin(self, slot: int) -> None:
        """Begin a batch in `slot`, whose row 0 is written."""

    def act(self, t: int) -> Any:
        """Record action, previous action and agent info of step t; return the n actions."""

    def ended(self, environments: Sequence[int]) -> None:
        """Reset the recurrent state of these environments: their episodes have ended."""

    def finish(self, T: int, *, idle: bool) -> None:
        """End a batch whose row T is written. With `idle`, all environments wait, and row T has no observations."""


class ResetRule(Protocol):
    """What happens when an episode ends: `MidBatchReset`, `WaitReset`, `Quota` for evaluation."""

    resets_at_begin: bool
    """Whether environments that wait are reset when the next batch begins."""

    def reset_now(self, i: int) -> bool:
        """Whether environment i, whose episode just ended, is reset at once; otherwise it waits."""


#: Called for each environment that was reset, with its column, observation and info.
OnReset: TypeAlias = "Callable[[int, Any, Any], object]"
#: Called for each environment that was stepped, with its column and the five values of `step`.
OnStep: TypeAlias = "Callable[[int, Any, Any, Any, Any, Any], object]"


class EnvironmentUnit(Protocol):
    """The n environments of a collector, which have indices i from 0 to n - 1.

    `SingleEnvironments` steps them one after the other, `VectorEnvironments` in one call, and `CoroutineEnvironments`
    awaits all at the same time. All methods block until they are done, and are called in the thread of the process's
    event loop. What an environment returns is passed on before the environment may reuse its buffers. Errors are
    `EnvironmentFault`, which names the environment; the progress cells say which environment is being called, so that
    one that is stuck can be named.
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
            environments: Indices of those to reset.
            seeds: Seeds of all n environments; None to reset without seeds.
            options: For all n environments, their ``options``; None for one that gets none.
            on_reset: Called for each environment that was reset.
            phase: At the start of a sampler, called with what is being done.
            anew: Whether all n environments begin new episodes.

        Returns:
            Those for which `on_reset` was not called, since they cannot be reset now. They take no steps until `step`
            calls `StepRow.start` for them; their rows until then are blank.
        """

    def check_reset_options(self) -> None:
        """Refuse options of resets if they would be ignored.

        Raises:
            ConfigError: They would be ignored.
        """

    def step(self, actions: Any, environments: Sequence[int], row: StepRow) -> None:
        """Step environments, and record what they return.

        Args:
            actions: An action for each of the n environments, which it may keep.
            environments: Indices of those to step: the same list object as long as they do not change. Those that are
                starting are not among them.
            row: Records the steps, by `record` or in the same way, and the episodes that begin, by `start`.
                Environments that failed, and are being replaced, are added to its `lost`.
        """

    def step_apart(self, actions: Mapping[int, Any], on_step: OnStep) -> None:
        """Step the environments that have an action, outside of a batch; some vector environments need one for all."""

    def call(self, ask: Ask, name: str, packed: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Call a method or attribute of environments.

        Args:
            ask: What to do.
            name: Name of the method or attribute.
            packed: Pairs of an environment and its pickled arguments.

        Yields:
            Pairs of an environment and its pickled result, or the exception that it raised.
        """

    def close(self) -> None:
        """Close all environments; idempotent."""
