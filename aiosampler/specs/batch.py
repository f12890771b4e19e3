"""The specs of a batch: its leading shape ``[T, B]``, and the arrays of one step."""

from dataclasses import dataclass

from aiosampler.specs.arguments import as_integer
from aiosampler.specs.arrays import ArraySpec
from aiosampler.specs.trees import Tree


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
    value: ArraySpec | None  # None if values are not recorded
    policy_version: ArraySpec | None = None  # None if all steps of a batch are chosen by one version
