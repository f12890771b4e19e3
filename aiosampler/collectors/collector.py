"""The inner loop: step n environments T times, and record everything.

It is the same for every sampler. Where actions come from is an `ActionSource`, what follows the end of an episode is a
`ResetRule`; evaluation is this loop with another rule. The collector writes to its columns of a slot, in this order:

==========================================================  ====================================================
when                                                        what
==========================================================  ====================================================
begin                                                       row 0 from the last batch; flags cleared
step t, before the environments                             action, agent info, previous action of t + 1 (source)
step t, after each environment                              observation of t + 1; where an episode ends, terminated
                                                            or truncated and the final observation
step t, after all environments                              reward and info of t and, as previous ones, of t + 1;
                                                            where an episode ended, what its reset gave, and nulls as
                                                            previous action and reward of t + 1
finish                                                      done; blanks of environments that wait
==========================================================  ====================================================

What an environment returned is recorded, and shown to its trajectory info, before another is stepped or reset: many
return the same buffer each time, and those of one process may share it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aiosampler.collectors.actions import action_mask, sample_action
from aiosampler.collectors.env_infos import EnvInfoWriter
from aiosampler.collectors.environment_checks import api_error, check_reset
from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.open_episodes import OpenEpisodes
from aiosampler.collectors.recording import as_flag, as_reward, flat_places, make_writer
from aiosampler.collectors.slot_rows import SlotRows
from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.interfaces import ActionSource, ResetRule
from aiosampler.memory.progress import AGENT, AT, BRANCH, NOWHERE, TICK
from aiosampler.memory.slot import Slot, with_private_row
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.seeding import Stream, seed_sequence
from aiosampler.specs.trees import tree_map

if TYPE_CHECKING:
    import gymnasium as gym


class Aborted(Exception):
    """The batch is not wanted any more."""


class FinishedEpisode(NamedTuple):
    """A trajectory info, with where its episode ended; batches list them in this order."""

    t: int
    b: int
    info: TrajInfo
    cut: bool = False  # before its end, since there were no more steps


class Collector:
    """Steps environments and records into slots.

    Args:
        environments: The n environments.
        seeds: For the first reset of each.
        first: Global index of the first of them.
        slots: Arrays of the slots, cut to the columns of the environments.
        specs: Of a single step.
        actions: Chooses actions.
        rule: Decides about resets.
        traj_info: Makes the statistics of a new episode.
        cells: Progress cells of this process.
        abort: Array of one element: not zero ends a batch at its next step.
        clocks: For each slot, the array ``[T, 2]`` for the times at which steps begin and end, None to tell none. Who
            asks for a batch clears it: the end of a step says that its row is complete, even if this process dies.
        evaluation: Whether these are evaluation environments.
    """

    def __init__(  # noqa: PLR0913 - all of it is fixed for the collector's life
        self,
        *,
        environments: Sequence["gym.Env[Any, Any]"],
        seeds: Sequence[int],
        first: int,
        slots: Sequence[Slot],
        specs: StepSpecs,
        actions: ActionSource,
        rule: ResetRule,
        traj_info: Callable[[], TrajInfo],
        cells: Any,
        abort: Any,
        clocks: Sequence[Any] | None = None,
        evaluation: bool = False,
    ) -> None:
        self._environments, self._seeds, self._first = environments, seeds, first
        self._actions, self._rule = actions, rule
        self._cells, self._abort, self._evaluation = memoryview(cells), memoryview(abort), evaluation
        self._writer = writer = make_writer(specs.observation, "observation")
        self._info_writer = EnvInfoWriter(specs.env_info) if specs.env_info else None
        self._slots = [SlotRows(slot, writer, self._info_writer, clocks and clocks[i]) for i, slot in enumerate(slots)]
        # Of our own, since a collector that replaces another starts while the user has the slots
        self._staging = SlotRows(with_private_row(slots[0]), writer, self._info_writer)
        self._kept = self._staging.row_like()
        T, self._n = slots[0]["reward"].shape
        self._places = flat_places(slots[0]["observation"]) if self._staging.vectors else ()
        self._episodes = OpenEpisodes(traj_info, T, self._n)
        self._waits_from: dict[int, int] = {}  # environment that waits -> first blank row of this batch
        self._active: list[tuple[int, int, Callable[[Any], Any]]] = []  # column, global index, step
        self._masks: list[Any] = [None] * self._n  # of the actions that are legal after the first reset
        self._started = False
        self._reset_options: list[Mapping[str, Any] | None] = [None] * self._n
        self._finished: list[FinishedEpisode] = []

    def start(
        self, phase: Callable[[str], None], decorrelation_steps: int = 0, seed: int = 0, generation: int = 0
    ) -> None:
        """Reset all environments, and take up to `decorrelation_steps` random steps in each.

        The number of steps and the actions depend on `seed`, `generation` and the environment's index alone.
        """
        self.restart(None, phase)
        slot = self._staging
        for i in range(self._n if decorrelation_steps else 0):
            phase(f"taking random steps in environment {self._first + i}")
            rng = np.random.default_rng(seed_sequence(seed, Stream.DECORRELATION, self._first + i, generation))
            self._decorrelate(slot, i, decorrelation_steps, rng)
        self._cells[AT] = NOWHERE
        slot.keep(0, self._kept)

    def set_reset_options(self, b: int, options: Mapping[str, Any] | None) -> None:
        """Have the environment with global index b reset with `options` from now on; None: without any."""
        self._reset_options[b - self._first] = options

    def restart(self, starts: Callable[[int], bool] | None, phase: Callable[[str], None] | None = None) -> None:
        """Begin new episodes everywhere, or, where `starts` says no, wait. The first time, environments are seeded."""
        slot = self._staging
        self._cells[BRANCH] = self._evaluation
        slot.forget()
        self._waits_from.clear()
        for i in range(self._n):
            self._episodes.renew(i)
            if starts is None or starts(i):
                if phase is not None:
                    phase(f"resetting environment {self._first + i}")
                given = self._reset(slot, 0, i, None if self._started else self._seeds[i])
                if phase is not None:  # it starts, and may take random steps
                    self._masks[i] = action_mask(*given)
            else:
                self._waits_from[i] = 0
        self._started = True
        self._actions.ended(range(self._n))
        self._activate()
        self._cells[AT] = NOWHERE
        slot.keep(0, self._kept)

    def _decorrelate(self, slot: SlotRows, i: int, most: int, rng: np.random.Generator) -> None:
        env = self._environments[i]
        env.action_space.seed(int(rng.integers(2**31)))
        mask = self._masks[i]
        for _ in range(rng.integers(most)):
            action = sample_action(env.action_space, mask)
            before = tree_map(lambda array: array[0, i].copy(), slot.slot["observation"])
            with self._fault_of("taking a random step", i):
                # Its own, which it may write to
                observation, given, terminated, truncated, info = env.step(copy.deepcopy(action))
                reward = as_reward(given)
                terminated, truncated = as_flag("terminated", terminated), as_flag("truncated", truncated)
            with self._fault_of("counting a random step in a TrajInfo", i):
                self._episodes.infos[i].step(before, action, reward, terminated, truncated, None, info)
            if terminated or truncated:
                self._episodes.renew(i)
                mask = action_mask(*self._reset(slot, 0, i))
                slot.null_previous(0, i)
            else:
                with self._fault_of("recording", i):
                    self._writer.write(slot.observation[0], i, observation)
                    slot.write_prev_info(0, i, info)
                    mask = action_mask(observation, info)
                    slot.write_previous(0, i, action, reward)

    def collect(self, index: int, T: int) -> list[FinishedEpisode]:
        """Fill T rows of slot `index`; return the episodes that ended, ordered by step and environment.

        Raises:
            Aborted: The abort flag was set; the batch is incomplete.
            EnvironmentFault: An environment raised, or returned what does not fit.
            AgentFault: The agent did.
        """
        slot = self._slots[index]
        self._finished = []
        self._cells[BRANCH] = self._evaluation
        self._begin(slot)
        self._actions.begin(index)
        try:
            self._step(slot, T)
            self._cells[AT] = AGENT
            self._actions.finish(T, idle=self.idle)
        finally:
            self._cells[AT] = NOWHERE
        self._finish(slot, T)
        return self._finished

    def cut_episodes(self, index: int, T: int) -> list[FinishedEpisode]:
        """End the episodes that are under way after T rows of slot `index` were filled, and return them, as cut.

        Their environments are to be restarted next.
        """
        observations = self._slots[index].slot["observation"]
        cut = []
        for i, b, _ in self._active:
            if self._episodes.under_way(i):
                info = self._episodes.infos[i]
                info.cut = True
                observation = tree_map(lambda array, i=i: array[T, i].copy(), observations)
                with self._fault_of("finishing a TrajInfo", i):
                    cut.append(FinishedEpisode(T - 1, b, info.terminate(observation), cut=True))
        return cut

    @property
    def idle(self) -> bool:
        """Whether all environments wait."""
        return not self._active

    def _step(self, slot: SlotRows, T: int) -> None:
        """Take T steps, or as many as there are environments that do not wait."""
        cells, abort, clock, act = self._cells, self._abort, slot.clock, self._actions.act
        write, places, episodes = self._writer.write, self._places, self._episodes
        each_step = episodes.each_step
        write_info = None if slot.env_info is None else self._info_writer.write  # type: ignore[union-attr] # there then
        i = -1
        for t in range(T):
            if abort[0]:
                raise Aborted
            cells[TICK] += 1
            cells[AT] = AGENT
            actions = act(t)
            row = slot.observation[t + 1]
            vectors = slot.vectors[t + 1] if slot.vectors is not None else None
            rewards, rewards_array = episodes.rewards[t]
            if clock is not None:
                clock[t, 0] = perf_counter_ns()
            ended = []
            try:
                for i, b, step in self._active:
                    cells[AT] = b
                    observation, reward, terminated, truncated, info = step(actions[i])
                    if vectors is not None:
                        try:
                            vectors[places[i]] = observation
                        except (ValueError, TypeError):  # it is not exactly what the space says
                            write(row, i, observation)
                            slot.vectors = vectors = None  # and will not be: look closer from now on
                    else:
                        write(row, i, observation)
                    try:
                        rewards[i] = reward
                    except Exception:  # it is no plain number: look closer
                        rewards[i] = as_reward(reward)
                    if write_info is not None:
                        write_info(slot.env_info[t], i, info)  # type: ignore[index] # present where its writer is
                    if terminated is not False or truncated is not False:
                        terminated = as_flag("terminated", terminated)
                        truncated = as_flag("truncated", truncated)
                    if each_step:
                        self._count_step(slot, t, i, rewards[i], terminated, truncated, info)
                    if terminated or truncated:
                        slot.write_end(t, i, observation, terminated, truncated)
                        self._finish_episode(slot, t, i)
                        ended.append(i)
            except EnvironmentFault:
                raise
            except BaseException as exc:
                doing = f"taking step {t} of the batch"
                raise EnvironmentFault(doing, self._first + i, self._evaluation) from api_error(exc)
            slot.write_rewards(t, rewards_array)
            if write_info is not None:
                slot.write_infos(t)
            if ended:
                self._follow(slot, t, ended)
            if clock is not None:
                clock[t, 1] = perf_counter_ns()
            if not self._active:
                break  # all wait: the rest is blank

    def _finish_episode(self, slot: SlotRows, t: int, i: int) -> None:
        try:
            info = self._episodes.terminate(i, t + 1, slot.final_observation)
        except BaseException as exc:
            raise EnvironmentFault("finishing a TrajInfo", self._first + i, self._evaluation) from exc
        self._finished.append(FinishedEpisode(t, self._first + i, info))

    def _follow(self, slot: SlotRows, t: int, ended: list[int]) -> None:
        """Reset the environments whose episodes ended at step t, or have them wait."""
        for i in ended:
            slot.null_previous(t + 1, i)
            if self._rule.reset_now(i):
                self._reset(slot, t + 1, i)
            else:
                self._wait(slot, i, t + 1)
        if self._waits_from:
            self._activate()
        self._actions.ended(ended)

    def _begin(self, slot: SlotRows) -> None:
        slot.begin(self._kept)
        self._episodes.begin()
        if self._rule.resets_at_begin and self._waits_from:
            waiting = sorted(self._waits_from)
            self._waits_from.clear()
            for i in waiting:
                self._reset(slot, 0, i)
            self._actions.ended(waiting)
            self._activate()
        for i in self._waits_from:
            self._wait(slot, i, 0)

    def _wait(self, slot: SlotRows, i: int, start: int) -> None:
        """Leave environment i alone from row `start` on."""
        self._waits_from[i] = start
        self._episodes.wait(start, i)
        slot.wait(start, i)

    def _finish(self, slot: SlotRows, T: int) -> None:
        slot.finish(self._waits_from.items())
        try:
            for i, *_ in self._active:
                self._episodes.count(i, T)
        except BaseException as exc:
            raise EnvironmentFault("counting in a TrajInfo", self._first + i, self._evaluation) from exc
        slot.keep(T, self._kept)

    def _reset(self, slot: SlotRows, t: int, i: int, seed: int | None = None) -> tuple[Any, Any]:
        """Reset environment i, record in row t what it gives, and return that."""
        self._cells[TICK] += 1
        self._cells[AT] = self._first + i
        try:
            given = self._reset_options[i]
            options = {} if given is None else {"options": dict(given)}  # what it takes out it gets again
            observation, info = check_reset(self._environments[i].reset(seed=seed, **options))
            self._writer.write(slot.observation[t], i, observation)
            slot.write_prev_info(t, i, info)
        except BaseException as exc:
            raise EnvironmentFault("resetting", self._first + i, self._evaluation) from api_error(exc)
        return observation, info

    def _count_step(
        self, slot: SlotRows, t: int, i: int, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> None:
        observation, action, agent_info = slot.inputs(t, i)
        with self._fault_of("counting a step in a TrajInfo", i):
            self._episodes.infos[i].step(observation, action, reward, terminated, truncated, agent_info, info)

    def _activate(self) -> None:
        self._active = [
            (i, self._first + i, env.step) for i, env in enumerate(self._environments) if i not in self._waits_from
        ]

    def _fault_of(self, doing: str, i: int) -> Any:
        return fault_of(doing, self._first + i, self._evaluation)
