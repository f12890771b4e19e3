"""Converting batches for the replay buffers, advantages and losses of TorchRL. Needs ``tensordict``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from aiosampler.errors import ConfigError
from aiosampler.specs.trees import Tree, tree_map

if TYPE_CHECKING:
    from aiosampler.samplers.samples import Samples

#: What TorchRL has at the root, beside observations of a Dict space.
_KEYS = {"action", "done", "terminated", "truncated", "reward", "next", "is_init", "collector"}
_KEYS |= {"agent_info", "env_info", "action_log_prob", "state_value"}


def to_tensordict(samples: Samples) -> TensorDict:
    """The batch as a TensorDict of batch size ``[B, T]``, with the keys, shapes and dtypes of TorchRL's collectors.

    The axis of environments comes first, then that of time, which has the name that TorchRL's advantages expect. The
    entries are views of the batch, and valid as long as it is; what follows a step, observations and values, is a copy.
    Replay buffers copy what they get. To move the batch, call ``samples.to(device)`` before.

    - ``"observation"``; those of a Dict space have their own keys at the root, as in TorchRL.
    - ``"action"``: discrete ones are numbers, as with ``GymEnv(..., categorical_action_encoding=True)``.
    - ``("next", ...)``: the observation that the step led to, which is the true final one where an episode ended, with
      ``"reward"``, ``"done"``, ``"terminated"``, ``"truncated"`` ``[B, T, 1]``. At the root these three are False.
    - ``"is_init"`` ``[B, T, 1]``: `EnvSamples.first`. ``("collector", "mask")`` ``[B, T]``: `Samples.valid`.
    - ``"agent_info"`` and ``"env_info"``, if there are any: the latter is what came with the observation, and
      ``("next", "env_info")`` what came with the step.
    - ``"action_log_prob"`` ``[B, T]`` and ``"state_value"`` ``[B, T, 1]``, where the agent's info has ``"log_prob"``
      and ``"value"``; with `bootstrap_value` also ``("next", "state_value")``. So advantages need no value network.

    Tuples become dicts with the keys ``"0"``, ``"1"``, and so on. Recurrent states are left out.

    Args:
        samples: The batch.

    Raises:
        ConfigError: A key of the Dict space of observations is one of those above.
    """
    env, info = samples.env, samples.agent.agent_info
    observation = _at_root(env.observation)
    if taken := _KEYS.intersection(observation):
        raise ConfigError(
            f"the Dict space of observations has the keys {sorted(taken)}, under which TorchRL has other things; "
            "rename them by a wrapper"
        )
    root = {
        **observation,
        "action": _turned(samples.agent.action),
        **{name: _turned(torch.zeros_like(env.done))[..., None] for name in ("done", "terminated", "truncated")},
        "is_init": _turned(env.first)[..., None],
        "collector": {"mask": _turned(samples.valid)},
    }
    following = {
        **_at_root(env.next_observation()),
        **{name: _turned(getattr(env, name))[..., None] for name in ("reward", "done", "terminated", "truncated")},
    }
    if env.env_info:
        root["env_info"], following["env_info"] = _turned(env.prev_env_info), _turned(env.env_info)
    if info is not None:
        root["agent_info"] = _turned(info)
    if isinstance(info, dict) and "log_prob" in info:
        root["action_log_prob"] = _turned(info["log_prob"])
    if isinstance(info, dict) and "value" in info:
        root["state_value"] = _turned(info["value"])[..., None]
        if samples.agent.bootstrap_value is not None:
            following["state_value"] = _turned(_next_value(samples))[..., None]
    batch_size = samples.valid.T.shape
    return TensorDict({**root, "next": following}, batch_size, names=[None, "time"])


def _next_value(samples: Samples) -> torch.Tensor:
    """Values ``[T, B]`` of the observation after each step."""
    agent: Any = samples.agent
    following = torch.cat((agent.agent_info["value"][1:], agent.bootstrap_value[None]))
    return torch.where(samples.env.done, agent.final_value.dense(), following)


def _at_root(observation: Tree) -> dict[str, Any]:
    turned = _turned(observation)
    return turned if isinstance(turned, dict) else {"observation": turned}


def _turned(tree: Tree) -> Any:
    """The tree ``[T, B, ...]`` as nested dicts ``[B, T, ...]``."""
    return _dicts(tree_map(lambda leaf: leaf.transpose(0, 1), tree))


def _dicts(tree: Tree) -> Any:
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", map(str, range(len(tree))))
        tree = dict(zip(names, tree, strict=True))
    return {str(key): _dicts(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
