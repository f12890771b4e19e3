"""Converting episodes to the form that Minari stores. Needs ``minari``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from minari.data_collector.episode_buffer import EpisodeBuffer

from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    from aiosampler.samplers.episode_assembler import Episode


def to_episode_buffer(episode: Episode) -> EpisodeBuffer:
    """An episode of an `EpisodeAssembler` for ``minari.create_dataset_from_buffers(dataset_id, [buffer, ...], env)``.

    It has L actions and rewards, L + 1 observations, and as infos the L + 1 `env_info_keys` of these. In Minari each
    episode has an end: one that was cut, because its worker was lost, is marked as truncated.

    Args:
        episode: The episode; the buffer shares its tensors.

    Raises:
        SamplerError: The observation after the last step was lost with a worker.
    """
    observations = episode.next_observation()  # raises if it was lost
    end = torch.zeros(len(episode), dtype=torch.bool)
    end[-1] = True
    return EpisodeBuffer(
        observations=tree_map(
            lambda steps, following: torch.cat((steps[:1], following)).numpy(), episode.observation, observations
        ),
        actions=tree_map(torch.Tensor.numpy, episode.action),
        rewards=episode.reward.numpy(),
        terminations=(end & episode.terminated).numpy(),
        truncations=(end & (episode.truncated or not episode.terminated)).numpy(),
        infos=tree_map(
            lambda before, steps: torch.cat((before, steps[-1:])).numpy(), episode.prev_env_info, episode.env_info
        ),
    )
