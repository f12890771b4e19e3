"""Statistics of episodes."""

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np

Self = TypeVar("Self", bound="TrajInfo")


class TrajInfo:
    """The statistics of one episode, from its reset to its end, also over several batches.

    Subclass it to keep more: override `step` to see every step, or `terminate` to see the end only, which costs
    nothing per step. Attributes must be picklable. ``traj_info_kwargs`` of the sampler go to ``__init__``.

    Args:
        discount: Discount factor of `DiscountedReturn`.

    Attributes:
        Length: Number of steps.
        Return: Sum of rewards.
        NonzeroRewards: Number of rewards that are not zero.
        DiscountedReturn: Sum of rewards, each times `discount` to the power of the steps before it.
        cut: Whether an evaluation ran out of steps before the end of the episode; set before `terminate` is called.
    """

    cut = False

    def __init__(self, discount: float = 1.0) -> None:
        self.Length = 0
        self.Return = 0.0
        self.NonzeroRewards = 0
        self.DiscountedReturn = 0.0
        self._discount = discount
        self._factor = 1.0

    def step(
        self,
        observation: Any,
        action: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        agent_info: Any,
        env_info: dict[str, Any],
    ) -> None:
        """Count one step.

        Args:
            observation: The observation that the action was chosen for; NumPy views, valid during the call.
            action: The action; NumPy views, valid during the call.
            reward: The reward as the environment gave it, in double precision.
            terminated: Whether the episode terminated.
            truncated: Whether the episode was truncated.
            agent_info: The agent's info for this environment; NumPy views, valid during the call. None for the random
                steps before the first batch, of `max_decorrelation_steps`.
            env_info: The complete info dict, which belongs to the environment: copy what you keep.
        """
        self.extend((reward,))

    def extend(self, rewards: Iterable[float]) -> None:
        """Count several steps at once; called in place of `step` if the class does not override that."""
        if isinstance(rewards, np.ndarray):
            with np.errstate(all="ignore"):  # Python floats overflow without warnings, too
                self._extend_array(rewards)
            return
        rewards = list(rewards)
        self.Length += len(rewards)
        self.NonzeroRewards += len(rewards) - rewards.count(0)
        before, self.Return = self.Return, reduce(add, rewards, self.Return)  # `sum` may round differently
        if self._discount == self._factor == 1 and self.DiscountedReturn == before:
            self.DiscountedReturn = self.Return
            return
        discounted, factor, discount = self.DiscountedReturn, self._factor, self._discount
        for reward in rewards:
            discounted += factor * reward
            factor *= discount
        self.DiscountedReturn, self._factor = discounted, factor

    def _extend_array(self, rewards: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Count many steps at once, with the same results bit for bit as one by one."""
        n, terms = len(rewards), np.empty(len(rewards) + 1)
        self.Length += n
        self.NonzeroRewards += int(np.count_nonzero(rewards))
        before, terms[0], terms[1:] = self.Return, self.Return, rewards
        self.Return = float(np.add.accumulate(terms)[-1])  # in order, where `np.sum` adds pairwise
        if self._discount == self._factor == 1 and self.DiscountedReturn == before:
            self.DiscountedReturn = self.Return
            return
        factors = np.full(n + 1, self._discount, np.float64)
        factors[0] = self._factor
        factors = np.multiply.accumulate(factors)
        terms[0], terms[1:] = self.DiscountedReturn, factors[:-1] * rewards
        self.DiscountedReturn, self._factor = float(np.add.accumulate(terms)[-1]), float(factors[-1])

    def terminate(self: Self, observation: Any) -> Self:
        """Finish the episode and return what to report, usually `self`.

        Called as well for an episode that is `cut`, which was not at its end.

        Args:
            observation: The last observation of the episode, before the reset, as it is recorded: NumPy arrays in the
                dtypes of the space, in its structure. A copy, which you may keep.
        """
        return self

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({facts})"


def sees_steps(kind: type[TrajInfo]) -> bool:
    """Whether a class overrides `TrajInfo.step`, so that each step must be passed to it."""
    return kind.step is not TrajInfo.step


def restored(records: Iterable[tuple[Any, ...]]) -> list[TrajInfo]:
    """Make infos of the class `TrajInfo` itself from records: step, environment, and the attributes, `cut` first."""
    new, infos = TrajInfo.__new__, []
    for _, _, cut, length, total, nonzero, discounted, discount, factor in records:
        info = new(TrajInfo)
        info.Length, info.Return, info.NonzeroRewards, info.DiscountedReturn = length, total, nonzero, discounted
        info._discount, info._factor = discount, factor  # noqa: SLF001 - this is a second constructor
        if cut:
            info.cut = True
        infos.append(info)
    return infos
