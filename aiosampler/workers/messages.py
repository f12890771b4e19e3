"""The messages between the user's process and the sampler process, and between that and its workers.

Those of each batch are named tuples of numbers, bytes and our own errors, which plain pickle takes. Those of the start
are dataclasses: they may hold what is defined in the user's main module, and travel by cloudpickle.
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

#: The phase in which a process receives the first message, with what the user's objects are made of.
UNPACKING = "importing the packages of env_fn and agent"


@dataclass(frozen=True, slots=True)
class Share:
    """Which environments a process has.

    Attributes:
        rank: Of the process among those that act.
        environments: Global indices.
        evaluation: Global indices of the evaluation environments.
        generation: How many processes had this share before.
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
    """What was found; `vector` tells what a vector environment can do, None where environments are single ones."""

    spaces: Spaces
    specs: StepSpecs
    examples: dict[str, Tree]
    draws_apart: bool = False  # whether `Agent.initialize` drew nothing that `SeededDraws` could not give
    vector: Any = None  # a `VectorTraits`
    coroutines: bool = False  # whether environments need an event loop


@dataclass(frozen=True, slots=True)
class Start:
    """Map the arena, build environments and agent, reset; answered by `Started`."""

    layout: Layout
    specs: StepSpecs
    parameters: Any  # tuple of ParameterSpec, which this module does not import to keep torch out
    affinity: Affinity


@dataclass(frozen=True, slots=True)
class Work:
    """To a worker: map the arena, build a share of the environments, reset; answered by `Started`."""

    options: Options
    probed: Probed
    start: Start
    share: Share
    cpus: Sequence[int] | None
    group: range = range(0)  # ranks of those that are served together
    spin: bool = False  # whether each worker has a CPU to itself
    give_way: bool = False  # whether it interrupts nobody when it is woken
    asker: int = 0  # index of the process that has this worker, among those that have some
    asked: range = range(0)  # ranks of all of its workers
    calls: Sequence[Any] = ()  # each a `Call`: what the environments were told that are replaced


@dataclass(frozen=True, slots=True)
class Serve:
    """To an action server: start workers and build the agent; answered by `Started`."""

    options: Options
    probed: Probed
    start: Start
    assignment: Any  # an `Assignment`


@dataclass(frozen=True, slots=True)
class Started:
    """Ready to collect."""


class Collect(NamedTuple):
    """Fill a slot; answered by `Batch`. What was asked for before belongs to the sampler again."""

    itr: int
    slot: int
    parameters: int = 0  # which adopted buffer has them; said by the sampler process, which adopts


class Finished(NamedTuple):
    """From a worker: its evaluation has ended, or its columns of a slot are full and there is more to tell."""

    episodes: bytes  # packed
    losses: "tuple[Loss, ...]" = ()  # of environments that were replaced within it


class Loss(NamedTuple):
    """A worker, or an environment of one, was lost, and is replaced."""

    error: ProcessFailure | None  # None if that was told before, and some more rows are blank because of it
    steps: int  # rows that are not valid because of it
    episodes: int  # of training that ended unreported, or were open


class Collected(NamedTuple):
    """What an engine has beside the arrays when a slot is full, or an evaluation has ended; sent by action servers."""

    episodes: list[bytes]  # packed
    losses: tuple[Loss, ...] = ()


class Batch(NamedTuple):
    """A slot is full."""

    itr: int
    slot: int
    policy_version: int
    episodes: list[bytes]  # packed
    seconds: float
    losses: tuple[Loss, ...] = ()


class Evaluate(NamedTuple):
    """Evaluate; answered by `Evaluated`."""

    itr: int
    max_trajectories: int | None = None  # the sampler's, if None
    max_steps: int | None = None
    parameters: int = 0  # as in `Collect`
    before: int = 0  # how many evaluations this sampler was asked for before


class Evaluated(NamedTuple):
    """An evaluation has ended."""

    episodes: list[bytes]  # packed
    losses: tuple[Loss, ...] = ()


class Call(NamedTuple):
    """Between two batches: have environments do something each; answered by `Called`."""

    ask: Ask
    name: str  # of a method or an attribute
    arguments: tuple[bytes, ...]  # packed by the user's process: one for all, or one for each of the environments
    environments: tuple[int, ...]  # global indices
    evaluation: bool

    def each(self, environments: Container[int]) -> Iterator[tuple[int, bytes]]:
        """Those of the environments that are to do it, and the packed arguments of each."""
        shared = len(self.arguments) == 1
        for i, b in enumerate(self.environments):
            if b in environments:
                yield b, self.arguments[0 if shared else i]


class Called(NamedTuple):
    """What environments answered; whatever one raised, the others were called as well."""

    results: dict[int, bytes]  # packed, by environment
    errors: dict[int, SamplerError]
    losses: tuple[Loss, ...] = ()


class Look(NamedTuple):
    """To a worker: there is a request for a batch in the arena; see `aiosampler.signals.batch_requests`."""


#: What is asked of a process that has environments, as long as it runs.
Asked = Collect | Evaluate | Call

#: What is asked of a worker by messages.
AskedOfWorker = Look | Evaluate | Call

#: What the sampler process is asked for.
Request = Probe | Start | Asked


def renewed(work: Work) -> Work:
    """The same work for the process that comes after."""
    return dataclasses.replace(work, share=dataclasses.replace(work.share, generation=work.share.generation + 1))
