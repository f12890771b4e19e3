"""Sequences of steps of a fixed length, for training recurrent agents."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aiosampler.errors import ConfigError, shortened
from aiosampler.specs.arguments import as_integer
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.samplers.episode_assembler import Episode

LONGEST_SHOWN = 100  # characters, of what is no sequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepSequence:
    """W steps of an episode, padded with zeros after its end; or N of these, made by `stack`.

    To learn from it, run the model from `state` over ``W + 1`` rows of `observation`, `prev_action` and `prev_reward`,
    and train on the steps that `mask` says: step t led from row t to row t + 1.

    Attributes:
        observation: Tree ``[W + 1, ...]``; stacked ``[W + 1, N, ...]``, and so on.
        prev_action: Tree ``[W + 1, ...]``.
        prev_reward: ``[W + 1]`` float32.
        action: Tree ``[W, ...]``.
        reward: ``[W]`` float32.
        agent_info: Tree ``[W, ...]``.
        terminated: ``[W]`` bool: the episode terminated with this step.
        done: ``[W]`` bool: it ended with this step.
        mask: ``[W]`` bool: train on this step. False in the burn-in, after the end of the episode, and where the
            observation after a step was lost.
        state: Tree ``[...]``: recurrent state before step 0, stacked ``[N, ...]``; None for agents that are not
            recurrent.
        policy_version: ``[W]`` int64.
    """

    observation: Tree
    prev_action: Tree
    prev_reward: torch.Tensor
    action: Tree
    reward: torch.Tensor
    agent_info: Tree
    terminated: torch.Tensor
    done: torch.Tensor
    mask: torch.Tensor
    state: Tree
    policy_version: torch.Tensor

    @staticmethod
    def stack(sequences: Sequence[StepSequence]) -> StepSequence:
        """Stack N sequences of the same W: tensors ``[W, N, ...]``, states ``[N, ...]``.

        Raises:
            ConfigError: There is none, or they differ in what they have, or in its shapes.
            TypeError: One is something else, such as an `Episode`, which `Episode.sequences` cuts.
        """
        sequences = list(sequences)
        if not sequences:
            raise ConfigError("there is nothing to stack: give at least one StepSequence")
        for one in sequences:
            if not isinstance(one, StepSequence):
                cut = ", which episode.sequences(length) makes of an episode" if hasattr(one, "sequences") else ""
                raise TypeError(f"stack takes StepSequences{cut}, got {shortened(repr(one), LONGEST_SHOWN)}")
        each = [{field.name: getattr(one, field.name) for field in dataclasses.fields(one)} for one in sequences]
        try:
            for fields in each:
                for name, tree in fields.items():
                    _check_alike(each[0][name], tree)
            states = [fields.pop("state") for fields in each]
            steps = tree_map(lambda *leaves: torch.stack(leaves, 1), *each)
            return StepSequence(**steps, state=tree_map(lambda *leaves: torch.stack(leaves), *states))
        except (RuntimeError, TypeError, KeyError, ValueError) as exc:
            raise ConfigError(
                f"sequences to stack must be of one length and one structure: {_difference(sequences)}"
            ) from exc


def _check_alike(first: Tree, tree: Tree) -> None:
    """Raise `ValueError` where stacking `tree` onto `first` would silently leave out something; cheap, for each."""
    if type(first) is not type(tree) or (isinstance(first, dict) and first.keys() != tree.keys()):
        raise ValueError("another structure")


def _difference(sequences: Sequence[StepSequence]) -> str:
    """The first difference between sequences that cannot be stacked."""
    names = [field.name for field in dataclasses.fields(StepSequence)]
    for (k, one), name in itertools.product(enumerate(sequences), names):
        was, got = (tree_map(_described, getattr(sequence, name)) for sequence in (sequences[0], one))
        if was != got:
            return f"{name} is {was} in the first, {got} in number {k}"
    return "they differ"


def _described(leaf: torch.Tensor) -> str:
    return f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"


def cut_sequences(episode: Episode, length: int, burn_in: int) -> list[StepSequence]:
    """See `Episode.sequences`."""
    length, burn_in = as_integer("length", length, 1), as_integer("burn_in", burn_in, 0)
    W = burn_in + length
    sequences = []
    for start, first in _windows(episode, length, burn_in):
        stop = min(start + W, len(episode))
        mask = torch.zeros(W, dtype=torch.bool)
        mask[first - start : stop - start] = True
        if stop == len(episode) and episode.final_observation is None:
            mask[stop - start - 1] = False
        steps = {name: _window(getattr(episode, name), start, stop, W) for name in _STEPS}
        ended = torch.zeros(2, W, dtype=torch.bool)
        if stop == len(episode):
            ended[:, stop - start - 1] = torch.tensor([episode.terminated, episode.terminated or episode.truncated])
        sequences.append(
            StepSequence(
                **steps,
                observation=_with_next(episode.observation, episode.final_observation, start, stop, W),
                prev_action=_with_next(episode.prev_action, _last(episode.action), start, stop, W),
                prev_reward=_with_next(episode.prev_reward, episode.reward[-1], start, stop, W),
                terminated=ended[0],
                done=ended[1],
                mask=mask,
                state=episode.states.get(start),
            )
        )
    return sequences


_STEPS = ("action", "reward", "agent_info", "policy_version")


def _windows(episode: Episode, length: int, burn_in: int) -> list[tuple[int, int]]:
    """For each sequence, its first step and the first that is trained on; each step is trained on at least once."""
    known: Sequence[int] = sorted(episode.states) if episode.states else range(len(episode))
    widest = max((after - step for step, after in itertools.pairwise([*known, len(episode)])), default=0)
    if widest > length:
        raise ConfigError(
            f"sequences of length={length} would leave out steps: recurrent states are known every {widest} steps, "
            "where batches begin; make length at least batch_T"
        )
    windows, start, covered = [], 0, 0
    while covered < len(episode):
        windows.append((start, covered))
        covered = start + burn_in + length
        start = known[bisect.bisect_right(known, covered - burn_in) - 1]
    return windows


def _last(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf[-1], tree)


def _window(tree: Tree, start: int, stop: int, W: int) -> Tree:
    """Rows `start` to `stop`, padded with zeros to W rows."""

    def cut(leaf: torch.Tensor) -> torch.Tensor:
        rows = leaf.new_zeros((W, *leaf.shape[1:]))
        rows[: stop - start] = leaf[start:stop]
        return rows

    return tree_map(cut, tree)


def _with_next(tree: Tree, final: Tree, start: int, stop: int, W: int) -> Tree:
    """The same with one more row: the next of the episode, or `final` after its last; zeros if that was lost."""
    if final is not None:
        tree = tree_map(lambda leaf, last: torch.cat((leaf[start:], last[None])), tree, final)
        start, stop = 0, stop - start
    rows = len(tree_leaves(tree)[0])
    return _window(tree, start, min(stop + 1, rows), W + 1)
