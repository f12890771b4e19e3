"""The inner loop for a worker with one plain environment, in one function.

With as many processes as environments, far more than there are CPUs, each step finds the caches cold: its time is that
of the memory that it touches, code and objects, not that of the operations in it. Calls of small functions take most of
it. So the common step is written out here; whatever is unusual goes the way of `Collector`.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from aiosampler.collectors.collector import Aborted, Collector
from aiosampler.collectors.environment_checks import api_error
from aiosampler.collectors.environments import EnvironmentFault
from aiosampler.memory.progress import AGENT, AT, TICK

if TYPE_CHECKING:
    from aiosampler.collectors.single_environments import SingleEnvironments
    from aiosampler.collectors.slot_rows import SlotRows


class SingleCollector(Collector):
    """A `Collector` of one environment.

    Args:
        unit: The unit with the environment.
        others: The other arguments of `Collector`.
    """

    def __init__(self, *, unit: SingleEnvironments, **others: Any) -> None:
        super().__init__(unit=unit, **others)
        self._environments = unit

    def _step(self, slot: SlotRows, T: int) -> None:
        row, clock, vectors = self._row, slot.clock, slot.vectors
        unusual = slot.env_info is not None or row.each_step or not self._active
        if unusual or vectors is None or clock is None or slot.single_rewards is None:
            super()._step(slot, T)
            return
        cells, abort, act, step, b = (
            self._cells, self._abort, self._actions.act, self._environments.environment(0).step, self._first
        )  # fmt: skip
        (whole,), rewards, (reward_rows, previous_rows) = row.places, self._episodes.rewards, slot.single_rewards
        for t in range(T):
            if abort[0]:
                raise Aborted
            cells[TICK] += 1
            cells[AT] = AGENT
            (action,) = act(t)
            clock[t, 0] = perf_counter_ns()
            cells[AT] = b
            try:
                observation, reward, terminated, truncated, info = step(action)
                usual = terminated is False and truncated is False
                if usual:
                    try:
                        vectors[t + 1][whole] = observation
                        rewards[t][0][0] = reward
                    except Exception:  # not exactly as expected: below it is converted or refused
                        usual = False
                if not usual:
                    row.turn_to(t)
                    row.record(0, observation, reward, terminated, truncated, info)
            except EnvironmentFault:
                raise
            except BaseException as exc:
                raise EnvironmentFault(f"taking step {t} of the batch", b, self._evaluation) from api_error(exc)
            if usual:
                reward_rows[t, 0] = previous_rows[t + 1, 0] = rewards[t][0][0]
            else:
                self._follow_up(slot, t)
            clock[t, 1] = perf_counter_ns()
            if not self._active:
                break  # the remaining rows are blank
