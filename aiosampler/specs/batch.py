"""The specs of one batch: its leading shape, and the arrays that a slot holds."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiosampler.errors import ConfigError
from aiosampler.specs.arrays import ArraySpec, batched
from aiosampler.specs.trees import Tree

FLOAT32 = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
BOOL = np.dtype(np.bool_)


def as_integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a Python integer; NumPy's are taken too.

    Raises:
        ConfigError: It is none, or too small.
    """
    try:
        integer = operator.index(value)
    except TypeError:
        integer = None
    if integer is None or isinstance(value, bool) or integer < minimum:
        raise ConfigError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return integer


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """Leading shape of one batch: T time steps of B environments."""

    T: int
    B: int

    def __post_init__(self) -> None:
        for name, value in (("T", self.T), ("B", self.B)):
            object.__setattr__(self, name, as_integer(f"batch_{name}", value, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpecs:
    """What one step of one environment consists of: trees of `ArraySpec` without leading dimensions."""

    observation: Tree
    action: Tree
    agent_info: Tree
    env_info: Tree
    state: Tree  # recurrent state
    value: ArraySpec | None  # None: no bootstrap value is recorded


def slot_specs(batch: BatchSpec, step: StepSpecs) -> Tree:
    """The arrays of one slot; together with `sparse_specs`, all that a batch consists of.

    Observations and what the agent is given beside them have T + 1 rows: row t + 1 is written when the environments
    have taken step t, and is read as the agent's input of step t + 1.
    """
    T, B = batch.T, batch.B
    return {
        "observation": batched(step.observation, T + 1, B),
        "prev_action": batched(step.action, T + 1, B),
        "prev_reward": ArraySpec((T + 1, B), FLOAT32),
        "action": batched(step.action, T, B),
        "agent_info": batched(step.agent_info, T, B),
        "reward": ArraySpec((T, B), FLOAT32),
        "terminated": ArraySpec((T, B), BOOL),
        "truncated": ArraySpec((T, B), BOOL),
        "done": ArraySpec((T, B), BOOL),
        "valid": ArraySpec((T, B), BOOL),
        "env_info": batched(step.env_info, T, B),
        "initial_state": batched(step.state, B),
        "bootstrap_value": step.value and step.value.batched(B),
        "final_count": ArraySpec((B,), INT32),
        "final_t": ArraySpec((B, T), INT32),
    }


def sparse_specs(batch: BatchSpec, step: StepSpecs) -> Tree:
    """Final observations, the k-th end of environment b at ``[b, k]``.

    There is room for an end at each step; pages that are never written take no memory.
    """
    return batched(step.observation, batch.B, batch.T)
