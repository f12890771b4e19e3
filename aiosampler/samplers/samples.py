"""A batch of experience: tensors that are views of the arena."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.agents.indexing import indexable
from aiosampler.memory.slot import Part, Slot, shown
from aiosampler.samplers import pytrees
from aiosampler.samplers.episode_ends import EpisodeEnds, FinalObservations, FinalValues
from aiosampler.samplers.plain_batches import plain_infos, plain_tree, shapes
from aiosampler.samplers.sample_stats import SampleStats
from aiosampler.samplers.timeline import Timeline, empty_timeline
from aiosampler.specs.trees import Tree, tree_items, tree_map
from aiosampler.workers.episodes import EpisodeInfos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aiosampler.collectors.traj_info import TrajInfo
    from aiosampler.workers.messages import Loss


@dataclass(frozen=True, slots=True)
class AgentSamples:
    """The agent's part of a batch. Leaves are CPU tensors.

    Attributes:
        action: Tree ``[T, B, ...]``, in the dtype of the action space.
        prev_action: Tree ``[T, B, ...]``: the action before; zeros where an episode starts.
        agent_info: Tree ``[T, B, ...]``: the agent's further outputs, None if it has none.
        policy_version: ``[T, B]`` int64: version of the parameters that chose each action, with ``lockstep=False``;
            otherwise None, since it is `Samples.policy_version` for all.
        bootstrap_value: ``[B]``: value of `EnvSamples.last_observation`, None if it was not asked for. Zero where there
            is no such observation, because the environment waits or its worker was lost.
        initial_state: Tree ``[B, ...]``: recurrent state before row 0, None for agents that are not recurrent.
        final_value: Where an episode ended, the value of `EnvSamples.final_observation`; None if `bootstrap_value` was
            not asked for.
    """

    action: Tree
    prev_action: Tree
    agent_info: Tree
    policy_version: torch.Tensor | None
    bootstrap_value: torch.Tensor | None
    initial_state: Tree
    final_value: FinalValues | None

    def __repr__(self) -> str:
        return _shapes_of(self)


@dataclass(frozen=True, slots=True)
class EnvSamples:
    """The environments' part of a batch. Leaves are CPU tensors.

    Attributes:
        observation: Tree ``[T, B, ...]``, in the dtypes of the space: what each action was chosen for.
        reward: ``[T, B]`` float32.
        prev_reward: ``[T, B]`` float32: the reward before; zero where an episode starts.
        terminated: ``[T, B]`` bool: the episode reached its end; do not bootstrap over it.
        truncated: ``[T, B]`` bool: the episode was cut; bootstrap from its final observation. Both may be set.
        done: ``[T, B]`` bool: either of them.
        first: ``[T, B]`` bool: an episode begins here, `observation` is that of its reset. False in row 0 of an episode
            that began in a batch before, or with random steps (`max_decorrelation_steps`).
        env_info: Dict of trees ``[T, B, ...]`` with the `env_info_keys`: what came with each step; zeros where a key
            was not reported.
        env_info_present: Dict of ``[T, B]`` bool: whether a key was reported.
        prev_env_info: Dict of trees ``[T, B, ...]``: what came with `observation`, and the agent saw as
            `AgentInputs.env_info`: the `env_info` before or, where an episode starts, that of its reset.
        prev_env_info_present: Dict of ``[T, B]`` bool, likewise.
        last_observation: Tree ``[B, ...]``: what follows row T - 1, of the next episode where `done` is set there.
            Zeros where nothing follows in this batch: with ``mid_batch_reset=False`` an environment whose episode has
            ended, also in row T - 1, waits for its reset, which belongs to the next batch; and where its worker was
            lost. Such an episode ended, so its return needs no value from here: bootstrap from `final_observation`
            where it was truncated.
        final_observation: Where `done` is set, the last observation before the reset.
    """

    observation: Tree
    reward: torch.Tensor
    prev_reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    done: torch.Tensor
    first: torch.Tensor
    env_info: Tree
    env_info_present: dict[str, torch.Tensor]
    prev_env_info: Tree
    prev_env_info_present: dict[str, torch.Tensor]
    last_observation: Tree
    final_observation: FinalObservations

    def next_observation(self) -> Tree:
        """Tree ``[T, B, ...]``: what each step led to, the final observation where an episode ended. A copy."""
        final = self.final_observation

        def follow(observation: torch.Tensor, last: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            following = torch.cat((indexable(observation)[1:], indexable(last)[None]))
            following[final.t, final.b] = indexable(ends)
            return following.view(observation.dtype)

        return tree_map(follow, self.observation, self.last_observation, final.observation)

    def __repr__(self) -> str:
        return _shapes_of(self)


class _InfosLater:
    """The base of `Samples`, whose `traj_infos` are made when they are first looked at: a long batch has hundreds."""

    __slots__ = ("_episodes",)
    _episodes: EpisodeInfos

    if not TYPE_CHECKING:  # a type checker knows the attributes

        def __getattr__(self, name: str) -> Any:  # called for what is not there, or not yet
            if name != "traj_infos":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            infos = self._episodes.infos()
            object.__setattr__(self, name, infos)
            return infos


@dataclass(frozen=True, slots=True)
class Samples(_InfosLater):
    """One batch of T time steps of B environments; a pytree of torch, as are its parts.

    Its tensors are views of shared memory, valid until the next batch is asked for: then the sampler may write to them
    again. `clone` copies a batch that is to be kept. Until then they are yours: whatever you do to them, in place or
    to their shape or memory, ends with the batch.

    Attributes:
        agent: The agent's part.
        env: The environments' part.
        valid: ``[T, B]`` bool, False where nothing happened, and all is zero: an environment waited for its reset, a
            vector environment took the step to reset it, or its worker was lost. A valid step that is not `done`,
            before one that is not valid, was the last before such a loss, and what it led to is lost as well.
        traj_infos: Statistics of the episodes that ended in this batch, ordered by step, then environment.
        itr: Number of the batch.
        policy_version: Version of the parameters that chose all of its actions; with ``lockstep=False`` the one that it
            was begun with; `policy_versions` is the range, and `AgentSamples.policy_version` tells for each.
        stats: How it was collected.
    """

    agent: AgentSamples
    env: EnvSamples
    valid: torch.Tensor
    traj_infos: list[TrajInfo]
    itr: int
    policy_version: int
    stats: SampleStats

    @property
    def policy_versions(self) -> tuple[int, int]:
        """The lowest and the highest version of the parameters that chose its actions; blank steps do not count."""
        versions = self.agent.policy_version
        chosen = None if versions is None else versions[self.valid]
        if chosen is None or not len(chosen):
            return self.policy_version, self.policy_version
        return int(chosen.min()), int(chosen.max())

    def clone(self) -> Samples:
        """A copy that is independent of the slot, and pickles at its own size."""
        return self.map(torch.clone)

    def to(self, device: str | torch.device) -> Samples:
        """The batch with all tensors on a device.

        Those that were moved are a copy, which outlives the slot. As with tensors, a batch that is on the device
        already is returned itself: on the CPU, `clone` it to keep it.
        """
        device = torch.device(device)
        return self if device == self.valid.device else self.map(lambda tensor: tensor.to(device))

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Samples:
        """The batch with `function` applied to each tensor.

        A tensor that `function` returns as it is stays a view of shared memory, valid until the next batch. Trees
        keep their structure, and None stays None. Final observations and values are copied from the slot first.
        """
        mapped: Samples = _mapped(function, self)
        return dataclasses.replace(mapped, traj_infos=list(self.traj_infos))

    def as_dict(self) -> dict[str, Any]:
        """The batch as nested dicts of tensors, which ``torch.load(..., weights_only=True)`` takes when it was saved.

        The keys are the names of the attributes: ``["agent"]``, ``["env"]``, ``["valid"]``, ``["traj_infos"]``,
        ``["itr"]`` and ``["policy_version"]``. ``["env"]`` also has ``["next_observation"]``, and of its
        ``["final_observation"]`` the ``["t"]``, ``["b"]`` and ``["observation"]``, as of ``["agent"]["final_value"]``
        these and the ``["value"]``. Named tuples are dicts by the names of their fields, and infos are dicts of their
        public attributes that are numbers, strings or None. `stats` are left out. The tensors are those of the batch,
        so they are valid for as long as these.
        """
        return {
            "agent": plain_tree(_as_dict(self.agent)),
            "env": plain_tree({**_as_dict(self.env), "next_observation": self.env.next_observation()}),
            "valid": self.valid,
            "traj_infos": plain_infos(self.traj_infos),
            "itr": self.itr,
            "policy_version": self.policy_version,
        }

    def __repr__(self) -> str:
        return _shapes_of(self)


def _fields(part: Any) -> dict[str, Any]:
    return {each.name: getattr(part, each.name) for each in dataclasses.fields(part)}


def _as_dict(part: Any) -> dict[str, Any]:
    fields = _fields(part).items()
    return {name: value.as_dict() if isinstance(value, EpisodeEnds) else value for name, value in fields}


#: The attributes of a batch that hold no tensors.
_FACTS = {"traj_infos", "itr", "policy_version", "stats"}


def tensors_of(part: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a batch or a part of it that hold tensors."""
    facts = _FACTS if isinstance(part, Samples) else ()
    return ((name, value) for name, value in _fields(part).items() if name not in facts)


def _mapped(function: Callable[[Any], Any], part: Any) -> Any:
    """A batch or a part of it with `function` applied to its tensors."""
    match part:
        case EpisodeEnds():
            return part.map(function)
        case Samples() | AgentSamples() | EnvSamples():
            parts = {name: _mapped(function, value) for name, value in tensors_of(part)}
            return dataclasses.replace(part, **parts)
    return tree_map(function, part)


def _items(part: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Path and tensor of each leaf of a batch or a part of it, in the order in which `_mapped` meets them."""
    match part:
        case EpisodeEnds():
            members = part.as_dict()
        case Samples() | AgentSamples() | EnvSamples():
            members = dict(tensors_of(part))
        case _:
            yield from tree_items(part, path)
            return
    for name, value in members.items():
        yield from _items(value, f"{path}.{name}" if path else name)


for _kind in (Samples, AgentSamples, EnvSamples, FinalObservations, FinalValues):
    pytrees.register(_kind, _items, _mapped)


def _shapes_of(part: Any) -> str:
    """The text of a batch or a part of it, with dtypes and shapes in place of the tensors."""
    return f"{type(part).__name__}({', '.join(f'{name}={shapes(value)}' for name, value in _fields(part).items())})"


class SlotSamples:
    """Makes the samples of one slot, each time that it is full.

    Which views of the slot there are is settled once. The tensors are made for each batch, so that whatever the user
    does to them ends with it: a queue of torch moves their memory, ``unsqueeze_()`` changes their shape.

    Args:
        slot: Its arrays.
    """

    def __init__(self, slot: Slot) -> None:
        self._valid = slot["valid"]
        self._agent, self._env, self._samples = (_Views(slot, part) for part in (Part.AGENT, Part.ENV, Part.SAMPLES))
        self._make_agent = _maker(AgentSamples, *self._agent.names, "final_value")
        self._make_env = _maker(EnvSamples, *self._env.names, "final_observation")
        facts = "agent", "env", "_episodes", "itr", "policy_version", "stats"
        self._make = _maker(Samples, *self._samples.names, *facts)
        self._ends = {field: slot[field] for field in ("final_count", "final_t", *_ENDS, "done")}
        self._has_values = slot["bootstrap_value"] is not None

    def empty(self) -> Samples:
        """Samples that are views of the slot, without number, version, infos and stats of a batch."""
        return self._with({}, EpisodeInfos.made([]), -1, -1, SampleStats(0, 0.0, empty_timeline()))

    def full(self, facts: Any, episodes: EpisodeInfos, timeline: Timeline, index: int) -> Samples:
        """The samples of a batch.

        Args:
            facts: The message that the batch is complete.
            episodes: Those that ended in it.
            timeline: The timeline of the batch.
            index: Number of batches before it.
        """
        stats = SampleStats(int(np.count_nonzero(self._valid)), facts.seconds, timeline, *_lost(facts.losses), index)
        return self._with(self._ends, episodes, facts.itr, facts.policy_version, stats)

    def _with(
        self, ends: dict[str, Any], episodes: EpisodeInfos, itr: int, policy_version: int, stats: SampleStats
    ) -> Samples:
        agent = self._make_agent(*self._agent.tensors(), FinalValues(ends) if self._has_values else None)
        env = self._make_env(*self._env.tensors(), FinalObservations(ends))
        samples: Samples = self._make(*self._samples.tensors(), agent, env, episodes, itr, policy_version, stats)
        return samples


def episodes_of(samples: Samples) -> EpisodeInfos:
    """The episodes that ended in a batch; this makes no infos of them."""
    episodes: EpisodeInfos | None = getattr(samples, "_episodes", None)
    return EpisodeInfos.made(samples.traj_infos) if episodes is None else episodes


#: The fields of a slot for ends of episodes.
_ENDS = (FinalObservations.field, FinalValues.field)


class _Views:
    """Makes torch views of the fields of a slot that a part of the samples shows.

    Args:
        slot: Arrays of the slot.
        part: The part.

    Attributes:
        names: Names of the fields, in the order of `tensors`.
    """

    def __init__(self, slot: Slot, part: Part) -> None:
        fields = dict(shown(slot, part))
        single = [name for name, tree in fields.items() if type(tree) is np.ndarray]
        nothing = [name for name, tree in fields.items() if tree is None]
        trees = [name for name in fields if name not in (*single, *nothing)]
        self.names = [*single, *trees, *nothing]
        self._arrays, self._trees, self._nothing = ([fields[name] for name in of] for of in (single, trees, nothing))

    def tensors(self) -> Iterator[Tree]:
        """New tensors of each field."""
        trees = [tree_map(torch.from_numpy, tree) if tree else type(tree)() for tree in self._trees]
        return chain(map(torch.from_numpy, self._arrays), trees, self._nothing)


def _maker(kind: type, *names: str) -> Callable[..., Any]:
    """A function that makes instances of a frozen dataclass with slots, in a third of the time of its constructor.

    Args:
        kind: The class.
        names: Names of the attributes, in the order of the function's arguments.
    """
    new, setters = object.__new__, [getattr(kind, name).__set__ for name in names]

    def make(*values: Any) -> Any:
        made: Any = new(kind)
        for setter, value in zip(setters, values, strict=True):
            setter(made, value)
        return made

    return make


def _lost(losses: Sequence[Loss]) -> tuple[int, int, int]:
    """Steps, episodes and processes or environments that were lost in a batch."""
    if not losses:
        return 0, 0, 0
    return (
        sum(loss.steps for loss in losses),
        sum(loss.episodes for loss in losses),
        sum(loss.error is not None for loss in losses),
    )
