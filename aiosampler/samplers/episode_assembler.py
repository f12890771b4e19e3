"""Assembling whole episodes from successive batches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aiosampler.errors import ConfigError, SamplerError, shortened
from aiosampler.samplers.step_sequences import StepSequence, cut_sequences
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from aiosampler.samplers.samples import Samples

#: The fields of an episode that have a row for each step, and the part of a batch that has them.
_STEPS = {
    "observation": "env", "action": "agent", "reward": "env", "prev_action": "agent", "prev_reward": "env",
    "agent_info": "agent", "env_info": "env", "env_info_present": "env", "prev_env_info": "env",
    "prev_env_info_present": "env",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode:
    """L successive steps of one environment: an episode, or the part of one that is known.

    Its tensors are copies. Those with an axis L have the rows of the columns ``[T, B, ...]`` of the batches, see
    `EnvSamples` and `AgentSamples`.

    Attributes:
        observation: Tree ``[L, ...]``.
        action: Tree ``[L, ...]``.
        reward: ``[L]`` float32.
        prev_action: Tree ``[L, ...]``.
        prev_reward: ``[L]`` float32.
        agent_info: Tree ``[L, ...]``.
        env_info: Dict of trees ``[L, ...]``.
        env_info_present: Dict of ``[L]`` bool.
        prev_env_info: Dict of trees ``[L, ...]``.
        prev_env_info_present: Dict of ``[L]`` bool.
        final_observation: Tree ``[...]``: the observation after the last step. None if that was lost with a worker.
        final_value: ``[]``: its value, if the sampler has `bootstrap_value` and the episode came to its end; or None.
        terminated: Whether the episode terminated with the last step.
        truncated: Whether it was truncated there. If neither, it was cut, because its worker was lost.
        begins: Whether step 0 is the first of the episode. It is not if the assembler did not get the batch before,
            nor after random steps (`max_decorrelation_steps`).
        policy_version: ``[L]`` int64: version of the parameters that chose each action.
        states: For each step before which the recurrent state is known (step 0 and those at which a batch began), that
            state, a tree ``[...]``. Empty if the agent is not recurrent.
        b: Index of the environment, of those of all actors of a `RaySampler`.
    """

    observation: Tree
    action: Tree
    reward: torch.Tensor
    prev_action: Tree
    prev_reward: torch.Tensor
    agent_info: Tree
    env_info: Tree
    env_info_present: dict[str, torch.Tensor]
    prev_env_info: Tree
    prev_env_info_present: dict[str, torch.Tensor]
    final_observation: Tree
    final_value: torch.Tensor | None
    terminated: bool
    truncated: bool
    begins: bool
    policy_version: torch.Tensor
    states: dict[int, Tree]
    b: int

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def whole(self) -> bool:
        """Whether it has all steps of the episode."""
        return self.begins and (self.terminated or self.truncated)

    @property
    def initial_state(self) -> Tree:
        """Recurrent state before the first step, a tree ``[...]``; None for agents that are not recurrent."""
        return self.states.get(0)

    def next_observation(self) -> Tree:
        """Tree ``[L, ...]``: what each step led to. A copy.

        Raises:
            SamplerError: What the last step led to was lost.
        """
        if self.final_observation is None:
            raise SamplerError("what the last step of this episode led to was lost with its worker; leave it out")
        return tree_map(
            lambda steps, final: torch.cat((steps[1:], final[None])), self.observation, self.final_observation
        )

    def sequences(self, length: int, *, burn_in: int = 0) -> list[StepSequence]:
        """Cut it into sequences for recurrent learning, so that each step is trained on in one at least.

        Args:
            length: Steps of a sequence to train on. For recurrent agents, whose states are known where batches begin,
                at least `batch_T`.
            burn_in: Steps before these, to warm up the recurrent state (Kapturowski et al. 2019). Where the episode
                begins there are none, and its steps are trained on from the first.

        Returns:
            Sequences of ``burn_in + length`` steps, padded at the end.

        Raises:
            ConfigError: A number is wrong, or states are known too seldom.
        """
        return cut_sequences(self, length, burn_in)

    def __repr__(self) -> str:
        end = "terminated" if self.terminated else "truncated" if self.truncated else "cut"
        return (
            f"Episode({len(self)} steps of environment {self.b}, {end}{'' if self.begins else ', without its start'})"
        )


@dataclass(slots=True)
class _Open:
    """An episode in progress."""

    begins: bool
    pieces: list[dict[str, Tree]] = dataclasses.field(default_factory=list)
    states: dict[int, Tree] = dataclasses.field(default_factory=dict)
    length: int = 0
    following: Tree = None  # observation after the last step


class EpisodeAssembler:
    """Joins the columns of successive batches to episodes.

    ::

        assembler = EpisodeAssembler()
        async for samples in sampler:
            for episode in assembler.add(samples):
                replay.append(episode)

    Batches of a `RaySampler` may come from any of its actors; those of each are joined by themselves.

    Args:
        initial_state: Recurrent state of one environment where an episode begins, from ``agent.initial_state(1)``. By
            default it is taken from the first environment whose batch begins with an episode.
    """

    def __init__(self, initial_state: Tree = None) -> None:
        if not all(isinstance(leaf, torch.Tensor) and leaf.ndim for leaf in tree_leaves(initial_state)):
            raise TypeError(f"initial_state must be what agent.initial_state(1) gives, got {initial_state!r}")
        self._initial_state = tree_map(lambda leaf: leaf[0].clone(), initial_state)
        self._open: dict[int, _Open] = {}  # by the index of the environment
        self._indices: dict[tuple[int, ...], int] = {}  # of the last batch, or of the last of each actor

    def add(self, samples: Samples) -> list[Episode]:
        """Add the next batch. Where one was left out, or comes again, the episodes in progress are cut.

        Args:
            samples: The batch, which is copied.

        Returns:
            The episodes that ended in it or were cut, ordered by step, then environment. Those that are in progress at
            its end go on with the next batch.

        Raises:
            TypeError: It is no batch.
        """
        if not hasattr(samples, "valid"):
            raise TypeError(f"add() takes a batch that a sampler returned, got {shortened(repr(samples), 200)}")
        valid, first, done = (leaf.cpu().numpy() for leaf in (samples.valid, samples.env.first, samples.env.done))
        T, B = valid.shape
        final = samples.env.final_observation
        ends = {place: n for n, place in enumerate(zip(final.t.tolist(), final.b.tolist(), strict=True))}
        self._learn_initial_state(samples, first)
        found: list[tuple[int, int, Episode]] = []
        actors: tuple[int, ...] = getattr(samples.stats, "actors", ())  # that a batch of a `RaySampler` comes from
        offset = actors[0] * B if len(actors) == 1 else 0
        index, before = samples.stats.index, self._indices.get(actors, -1)
        self._indices[actors], follows = index, -1 in (index, before) or index == before + 1
        for i in range(B):
            b = offset + i
            if b in self._open and (first[0, i] or not valid[0, i] or not follows):
                found.append((-1, b, self._finish(b, self._open[b].following)))  # lost between two batches
            begins = np.flatnonzero(valid[:, i] & (first[:, i] | ~_before(valid[:, i]) | _before(done[:, i])))
            stops = [*begins[1:].tolist(), T]
            for start, stop in zip(begins.tolist(), stops, strict=True):
                stop = start + int(np.count_nonzero(valid[start:stop, i]))  # up to the first blank row
                self._take(samples, start, stop, i, b, begins=bool(first[start, i]))
                n = ends.get((stop - 1, i))
                if n is not None:
                    found.append((stop - 1, b, self._end(samples, (stop - 1, i), b, n)))
                elif stop < T:
                    found.append((stop - 1, b, self._finish(b, None)))
                else:
                    self._open[b].following = _copy(samples.env.last_observation, i)
        return [episode for *_, episode in sorted(found, key=lambda end: end[:2])]

    def _learn_initial_state(self, samples: Samples, first: Any) -> None:
        state = samples.agent.initial_state
        if self._initial_state is None and state is not None and first[0].any():
            self._initial_state = _copy(state, int(first[0].argmax()))

    def _take(self, samples: Samples, start: int, stop: int, i: int, b: int, *, begins: bool) -> None:
        """Append rows of column i to the episode in progress of environment b, or begin one with them."""
        episode = self._open.setdefault(b, _Open(begins))
        if samples.agent.initial_state is not None:
            if start == 0:
                episode.states[episode.length] = _copy(samples.agent.initial_state, i)
            elif self._initial_state is None:
                raise ConfigError(
                    "the recurrent state that an episode begins with is not known yet: give it, by "
                    "EpisodeAssembler(agent.initial_state(1))"
                )
            else:
                episode.states[0] = self._initial_state
        place, versions = (slice(start, stop), i), samples.agent.policy_version
        piece = {name: _copy(getattr(getattr(samples, part), name), place) for name, part in _STEPS.items()}
        piece["policy_version"] = (
            torch.full((stop - start,), samples.policy_version) if versions is None else _copy(versions, place)
        )
        episode.pieces.append(piece)
        episode.length += stop - start

    def _end(self, samples: Samples, place: tuple[int, int], b: int, n: int) -> Episode:
        value = samples.agent.final_value
        return self._finish(
            b,
            _copy(samples.env.final_observation.observation, n),
            final_value=None if value is None else value.value[n].clone(),
            terminated=bool(samples.env.terminated[place]),
            truncated=bool(samples.env.truncated[place]),
        )

    def _finish(
        self,
        b: int,
        final_observation: Tree,
        *,
        final_value: torch.Tensor | None = None,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Episode:
        episode = self._open.pop(b)
        steps = episode.pieces[0]
        if len(episode.pieces) > 1:
            steps = tree_map(lambda *pieces: torch.cat(pieces), *episode.pieces)
        return Episode(
            **steps,
            final_observation=final_observation,
            final_value=final_value,
            terminated=terminated,
            truncated=truncated,
            begins=episode.begins,
            states=episode.states,
            b=b,
        )


def _before(flags: Any) -> Any:
    """The flags of the row before each; True for row 0."""
    return np.concatenate(([True], flags[:-1]))


def _copy(tree: Tree, place: Any) -> Tree:
    return tree_map(lambda leaf: leaf[place].clone(), tree)
