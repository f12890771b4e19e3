"""The messages between the user's process and the sampler process, and between that and its workers.

Messages that are sent for each batch are named tuples of numbers, bytes and our own errors, for plain pickle. Those of
the start are dataclasses and sent by cloudpickle, since they may contain what is defined in the user's main module.
"""

import dataclasses
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiosampler.affinity import Affinity
from aiosampler.collectors.environment_access import Ask as Ask
from aiosampler.errors import ProcessFailure, SamplerError
from aiosampler.memory.layout import Layout
from aiosampler.options import Options
from aiosampler.specs.arrays import Spaces
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import Tree

#: The phase in which a process receives its first message, which contains the user's objects.
UNPACKING = "importing the packages of env_fn and agent"


@dataclass(frozen=True, slots=True)
class Share:
    """The environments of one process.

    Attributes:
        rank: Rank of the process among the workers; 0 for the sampler process if it steps itself.
        environments: Global indices.
        evaluation: Global indices of its evaluation environments.
        generation: How many processes had this share before, each of which was lost.
    """

    rank: int
    environments: range
    evaluation: range
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """Try out environment and agent; answered by `Probed`."""

    options: Options
    engine: Any  # an `EngineKind`: which engine is to run


@dataclass(frozen=True, slots=True)
class Probed:
    """What trying out has found about environment and agent."""

    spaces: Spaces
    specs: StepSpecs
    examples: dict[str, Tree]
    draws_apart: bool = False  # whether `Agent.initialize` drew only by functions that `SeededDraws` covers
    vector: Any = None  # a `VectorTraits`; None for single environments
    coroutines: bool = False  # whether environments need an event loop


@dataclass(frozen=True, slots=True)
class Start:
    """Map the arena, build environments and agent, reset; answered by `Started`."""

    layout: Layout
    specs: StepSpecs
    parameters: Any  # tuple of `ParameterSpec`, which is not imported here, as it imports torch
    affinity: Affinity


@dataclass(frozen=True, slots=True)
class Work:
    """To a worker: map the arena, build a share of the environments, reset; answered by `Started`."""

    options: Options
    probed: Probed
    start: Start
    share: Share
    cpus: Sequence[int] | None
    group: range = range(0)  # ranks of the workers in its group
    spin: bool = False  # whether each worker has a CPU to itself
    give_way: bool = False  # whether it must not preempt others when it wakes
    asker: int = 0  # index of its parent among the processes with workers
    asked: range = range(0)  # ranks of all workers of its parent
    calls: Sequence[Any] = ()  # each a `Call`, to be repeated for replaced environments


@dataclass(frozen=True, slots=True)
class Serve:
    """To an action server: start workers and build the agent; answered by `Started`."""

    options: Options
    probed: Probed
    start: Start
    assignment: Any  # an `Assignment`


@dataclass(frozen=True, slots=True)
class Started:
    """The process is ready to collect."""


class Collect(NamedTuple):
    """Fill a slot; answered by `Batch`. The batch that the user has is given back by it."""

    itr: int
    slot: int
    parameters: int = 0  # index of the adopted buffer; set by the sampler process for its workers
    anew: int = 1  # 0 if workers and server go on from the batch before; set by the sampler process


class Finished(NamedTuple):
    """From a worker: its evaluation has ended, or its columns of a slot are complete and more is to be reported."""

    episodes: bytes  # from `pack_episodes`
    losses: "tuple[Loss, ...]" = ()  # environments that were replaced meanwhile
    in_memory: bool = False  # not sent, but made by the parent from an answer by memory


class Loss(NamedTuple):
    """A worker, or an environment with coroutines, failed and is replaced."""

    error: ProcessFailure | None  # None if it was reported before, and further rows are blank because of it
    steps: int  # number of rows that are blank because of it
    episodes: int  # number of episodes of training that were lost: open, or ended and not reported


class Collected(NamedTuple):
    """What an engine returns, besides the arrays, for a complete batch or evaluation; server processes send it."""

    episodes: list[bytes]  # packed; it may be empty if there is a number, by which the user's process finds them
    losses: tuple[Loss, ...] = ()
    number: int = 0  # of the request, if all workers have answered it by memory, with all episodes; otherwise 0


class Batch(NamedTuple):
    """A batch is complete in a slot."""

    itr: int
    slot: int
    policy_version: int
    episodes: list[bytes]  # packed
    seconds: float
    losses: tuple[Loss, ...] = ()
    number: int = 0  # as in `Collected`


class Evaluate(NamedTuple):
    """Evaluate; answered by `Evaluated`."""

    itr: int
    max_trajectories: int | None = None  # None for the sampler's `eval_max_trajectories`
    max_steps: int | None = None
    parameters: int = 0  # as in `Collect`
    before: int = 0  # number of evaluations before this one


class Evaluated(NamedTuple):
    """An evaluation has ended."""

    episodes: list[bytes]  # packed
    losses: tuple[Loss, ...] = ()


class Call(NamedTuple):
    """Call a method or attribute of environments between two batches; answered by `Called`."""

    ask: Ask
    name: str  # of a method or an attribute
    arguments: tuple[bytes, ...]  # pickled: one for all, or one for each of the environments
    environments: tuple[int, ...]  # global indices
    evaluation: bool

    def each(self, environments: Container[int]) -> Iterator[tuple[int, bytes]]:
        """Pairs of an environment, of those that are called and in `environments`, and its pickled arguments."""
        shared = len(self.arguments) == 1
        for i, b in enumerate(self.environments):
            if b in environments:
                yield b, self.arguments[0 if shared else i]


class Called(NamedTuple):
    """The results of a call. If one environment raises, the others are called all the same."""

    results: dict[int, bytes]  # pickled, by environment
    errors: dict[int, SamplerError]
    losses: tuple[Loss, ...] = ()


class Look(NamedTuple):
    """To a worker: there is a request for a batch in the arena; see `aiosampler.signals.batch_requests`."""


#: The requests to a process with environments, after its start.
Asked = Collect | Evaluate | Call

#: The messages to a worker, after its start.
AskedOfWorker = Look | Evaluate | Call

#: All requests to the sampler process.
Request = Probe | Start | Asked


def renewed(work: Work) -> Work:
    """The work for a process that replaces a lost one: the same share, of the next generation."""
    return dataclasses.replace(work, share=dataclasses.replace(work.share, generation=work.share.generation + 1))
