"""Rebuilding the stacks of observations that a `FrameStackAgent` saw, from a batch that has each observation once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aiosampler.agents.frame_stack import FrameStackAgent
from aiosampler.agents.indexing import indexable
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from aiosampler.samplers.samples import Samples

Index = int | torch.Tensor


class FrameStacks:
    """The stacks of K observations in a batch, made on demand, since all together take K times the memory of the batch.

    ``stacks[t, b]`` are those of steps t of environments b, ints or tensors of equal shape: a tree ``[..., K, ...]``,
    which is a copy. ``t = T`` is that of `EnvSamples.last_observation`. They have no meaning where `valid` is False.

    It holds a copy of the single observations, so it stays valid after the batch.

    Args:
        samples: A batch, on any device.
        agent: The agent that the batch was collected with.

    Raises:
        TypeError: `agent` is not a `FrameStackAgent`.
    """

    def __init__(self, samples: Samples, agent: FrameStackAgent) -> None:
        if not isinstance(agent, FrameStackAgent):
            raise TypeError(f"agent must be the FrameStackAgent of the sampler, got {agent!r}")
        self._K, self._zero = agent.stack_size, agent.zero if agent.padding == "zero" else None
        env, state = samples.env, samples.agent.initial_state
        self._T, self._B = env.done.shape
        self._dtypes = tree_map(lambda leaf: leaf.dtype, env.observation)
        # [K - 1 + T + 1, B, ...]: the stack of row t is rows t to t + K - 1 here
        self._frames = tree_map(
            lambda before, rows, last: torch.cat(
                (indexable(before.transpose(0, 1)), indexable(rows), indexable(last)[None])
            ),
            state["frames"],
            env.observation,
            env.last_observation,
        )
        self._done, self._final = env.done, env.final_observation
        begins = torch.cat((~state["begun"][None], env.first[1:], env.done[-1:]))
        rows = torch.arange(self._T + 1, device=begins.device)[:, None]
        start = torch.where(begins, rows, -self._K).cummax(0).values  # row in which the episode of a row began
        self._padded_to = start + self._K - 1  # first row of the frames that belongs to the episode

    def __getitem__(self, place: tuple[Index, Index]) -> Tree:
        t, b = (torch.as_tensor(index, device=self._done.device) for index in place)
        limit = self._padded_to[t, b][..., None]
        index = t[..., None] + torch.arange(self._K, device=t.device)

        places = torch.maximum(index, limit) * self._B + b[..., None]  # indices into the flattened frames

        def gather(frames: torch.Tensor) -> torch.Tensor:
            chosen = frames.flatten(0, 1).index_select(0, places.flatten())  # much faster than indexing by [t, b]
            return chosen.view(*places.shape, *frames.shape[2:])

        def pad(stack: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
            there = (index >= limit).view(*index.shape, *[1] * (stack.dim() - index.dim()))
            return torch.where(there, stack, indexable(zero).to(stack.device))

        stacks = tree_map(gather, self._frames)
        if self._zero is not None:
            stacks = tree_map(pad, stacks, self._zero)
        return tree_map(lambda stack, dtype: stack.view(dtype), stacks, self._dtypes)

    def dense(self) -> Tree:
        """All of them: a tree ``[T, B, K, ...]``. A view where no episode began in the batch or shortly before."""
        T, B, K = self._T, self._B, self._K
        if (self._padded_to[:T] > torch.arange(T, device=self._done.device)[:, None]).any():
            t = torch.arange(T, device=self._done.device)[:, None].expand(T, B)
            return self[t, torch.arange(B, device=t.device).expand(T, B)]

        def view(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            step, column, *rest = frames.stride()
            return frames.as_strided((T, B, K, *frames.shape[2:]), (step, column, step, *rest)).view(dtype)

        return tree_map(view, self._frames, self._dtypes)

    def final(self) -> Tree:
        """Those of the N final observations, in the order of `FinalObservations`: a tree ``[N, K, ...]``."""
        before = self[self._final.t, self._final.b]
        return tree_map(
            lambda stack, last: torch.cat((stack[:, 1:], last[:, None]), 1), before, self._final.observation
        )

    def next(self, t: torch.Tensor, b: torch.Tensor) -> Tree:
        """Those of what steps t of environments b led to, ``[n]`` each: a tree ``[n, K, ...]``."""
        following = self[t + 1, b]
        ended = self._done[t, b]
        number = torch.zeros(self._T, self._B, dtype=torch.int64, device=ended.device)
        number[self._final.t, self._final.b] = torch.arange(len(self._final), device=ended.device)

        def put(stack: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
            indexable(stack)[ended] = indexable(final)[number[t, b][ended]]
            return stack

        return tree_map(put, following, self.final())
