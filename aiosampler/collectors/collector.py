"""The inner loop of every sampler: step n environments T times and record the steps.

An `ActionSource` provides the actions, a `ResetRule` decides what follows the end of an episode; evaluation is the same
loop with another rule. The collector writes to its columns of a slot in this order:

==========================================================  ====================================================
when                                                        what
==========================================================  ====================================================
begin                                                       row 0 from the last batch; flags cleared
step t, before the environments                             action, agent info, previous action of t + 1 (source)
step t, after each environment                              observation of t + 1; where an episode ends, done,
                                                            terminated or truncated, and the final observation
step t, after all environments                              reward and info of t and, as previous ones, of t + 1;
                                                            where an episode ended, what its reset gave, and nulls as
                                                            previous action and reward of t + 1
finish                                                      blanks of environments that wait
==========================================================  ====================================================

What an environment returns is recorded, and passed to its trajectory info, before another one is called: many return
the same buffer each time, and the environments of a process may share it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from aiosampler.collectors.actions import action_mask
from aiosampler.collectors.batch_statistics import open_episodes
from aiosampler.collectors.env_infos import EnvInfoWriter
from aiosampler.collectors.environments import EnvironmentFault, fault_of
from aiosampler.collectors.open_episodes import FinishedEpisode
from aiosampler.collectors.random_steps import RandomSteps
from aiosampler.collectors.recording import make_writer
from aiosampler.collectors.slot_rows import SlotRows
from aiosampler.collectors.step_row import StepRow
from aiosampler.collectors.traj_info import TrajInfo
from aiosampler.errors import ProcessFailure
from aiosampler.interfaces import ActionSource, EnvironmentUnit, ResetRule
from aiosampler.memory.progress import AGENT, AT, BRANCH, NOWHERE, TICK
from aiosampler.memory.slot import Slot, with_private_row
from aiosampler.specs.batch import StepSpecs
from aiosampler.specs.trees import tree_map


class Aborted(Exception):
    """Collecting ended early, because the abort flag was set."""


@dataclass(slots=True)
class LostEnvironment:
    """An environment that failed and is replaced.

    Attributes:
        error: Why it failed; None if that was reported before, and only further rows are blank because of it.
        steps: Number of rows that are blank because of it.
        episodes: Number of episodes that were lost, 0 or 1.
    """

    error: ProcessFailure | None
    steps: int = 0
    episodes: int = 0


class Collector:
    """Steps environments and records into slots.

    Args:
        unit: The n environments.
        seeds: For each environment, the seed of its first reset.
        reset_seed: Returns the seed of a later reset, from the column and the number of resets before; None if only
            first resets are seeded.
        first: Global index of the first environment.
        slots: Arrays of the slots, cut to the columns of the environments.
        specs: Specs of a single step.
        actions: Source of the actions.
        rule: Decides about resets.
        traj_info: Makes the statistics of a new episode.
        cells: Progress cells of this process.
        abort: Array of one element: not zero ends a batch at its next step.
        clocks: For each slot, the array ``[T, 2]`` for the times at which steps begin and end; None to record none.
            They are cleared before a batch is requested; an end time shows that its row is complete, even if this
            process dies.
        evaluation: Whether these are evaluation environments.
    """

    def __init__(  # noqa: PLR0913 - all of it is fixed for the collector's life
        self,
        *,
        unit: EnvironmentUnit,
        seeds: Sequence[int],
        reset_seed: Callable[[int, int], int] | None = None,
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
        self._unit, self._seeds, self._first = unit, seeds, first
        self._actions, self._rule, self._reset_seed = actions, rule, reset_seed
        self._cells, self._abort, self._evaluation = memoryview(cells), memoryview(abort), evaluation
        self._writer = writer = make_writer(specs.observation, "observation")
        info_writer = EnvInfoWriter(specs.env_info) if specs.env_info else None
        self._slots = [SlotRows(slot, writer, info_writer, clocks and clocks[i]) for i, slot in enumerate(slots)]
        # Row 0 is prepared in private memory, since a replacement starts while the user has the slots
        self._staging = SlotRows(with_private_row(slots[0]), writer, info_writer)
        self._kept = self._staging.row_like()
        T, self._n = slots[0]["reward"].shape
        self._episodes = open_episodes(traj_info, T, self._n, together=unit.takes_batches)
        self._row = StepRow(writer, info_writer, self._episodes, first, evaluation=evaluation)
        self._waits_from: dict[int, int] = {}  # environment that waits -> first blank row of this batch
        self._starting: set[int] = set()  # environments whose reset has not been answered yet
        self._losing: dict[int, LostEnvironment] = {}  # environments that failed and are not replaced yet
        self._losses: list[LostEnvironment] = []  # to be reported by `take_losses`
        self._active: list[int] = []  # environments that are stepped; a new list whenever they change
        self._started = False
        self._reset_options: list[Mapping[str, Any] | None] = [None] * self._n
        self._resets = [0] * self._n  # of each environment; counted only with `reset_seed`

    def start(
        self,
        phase: Callable[[str], None],
        decorrelation_steps: int = 0,
        rng: Callable[[int], np.random.Generator] = np.random.default_rng,
    ) -> None:
        """Reset all environments, and take up to `decorrelation_steps` random steps in each.

        Args:
            phase: Called with what is being done.
            decorrelation_steps: More than the most steps that an environment takes; 0 for no steps.
            rng: Makes the generator of an environment's number of steps and actions, given its column.
        """
        masks: list[Any] = [None] * self._n  # masks of legal actions, None where all are
        seeds = None if self._started else self._seeds
        self._restart(range(self._n), phase, masks)
        if decorrelation_steps:
            phase("taking random steps")
            walk = RandomSteps(self._unit, self._staging, self._episodes, self._first, evaluation=self._evaluation)
            walk.take(decorrelation_steps, rng, masks, self._reset, seeds)
            self._activate()
        self._cells[AT] = NOWHERE
        self._staging.keep(0, self._kept)

    def set_reset_options(self, b: int, options: Mapping[str, Any] | None) -> None:
        """Pass `options` to later resets of the environment with global index b; None for no options.

        Raises:
            ConfigError: The environment would ignore them.
        """
        if options is not None:
            self._unit.check_reset_options()
        self._reset_options[b - self._first] = options

    def restart(self, starts: Callable[[int], bool] | None, phase: Callable[[str], None] | None = None) -> None:
        """Begin new episodes; environments for which `starts` is False wait. The first time, resets are seeded."""
        self._restart([i for i in range(self._n) if starts is None or starts(i)], phase)
        self._cells[AT] = NOWHERE
        self._staging.keep(0, self._kept)

    def _restart(
        self, starts: Sequence[int], phase: Callable[[str], None] | None, masks: list[Any] | None = None
    ) -> None:
        self._cells[BRANCH] = self._evaluation
        self._staging.forget()
        self._waits_from = dict.fromkeys(set(range(self._n)).difference(starts), 0)
        self._starting.clear()
        self._losing.clear()
        for i in range(self._n):
            self._episodes.renew(i)
        seeds = None if self._started else self._seeds
        self._reset(self._staging, 0, starts, seeds=seeds, phase=phase, masks=masks, anew=True)
        self._started = True
        self._actions.ended(range(self._n))
        self._activate()

    def collect(self, index: int, T: int) -> list[FinishedEpisode]:
        """Fill T rows of slot `index`; return the episodes that ended, ordered by step and environment.

        Raises:
            Aborted: The abort flag was set; the batch is incomplete.
            EnvironmentFault: An environment raised, or returned what does not fit.
            AgentFault: The agent raised, or returned what does not fit.
        """
        slot = self._slots[index]
        self._row.begin(slot)
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
        return self._row.finished

    def cut_episodes(self, index: int, T: int) -> list[FinishedEpisode]:
        """End the episodes that are in progress after T rows of slot `index`, and return them, marked as cut.

        The caller must restart their environments next.
        """
        observations = self._slots[index].slot["observation"]
        cut = []
        for i in self._active:
            if self._episodes.under_way(i):
                observation = tree_map(lambda array, i=i: array[T, i].copy(), observations)
                with fault_of("finishing a TrajInfo", self._first + i, self._evaluation):
                    info = self._episodes.cut(i, observation)
                cut.append(FinishedEpisode(T - 1, self._first + i, info, cut=True))
        return cut

    @property
    def idle(self) -> bool:
        """Whether all environments wait for their reset, so that none steps."""
        return not self._active and not self._starting

    def _step(self, slot: SlotRows, T: int) -> None:
        """Take T steps, or fewer if all environments wait before that."""
        cells, abort, clock, act = self._cells, self._abort, slot.clock, self._actions.act
        step, row = self._unit.step, self._row
        write_rewards, infos = slot.write_rewards, slot.env_info is not None
        for t in range(T):
            if abort[0]:
                raise Aborted
            cells[TICK] += 1
            cells[AT] = AGENT
            actions = act(t)
            row.turn_to(t)
            if clock is not None:
                clock[t, 0] = perf_counter_ns()
            step(actions, self._active, row)
            if row.lost or row.ended or self._starting:
                self._follow_up(slot, t)
            else:
                write_rewards(t, row)
                if infos:
                    slot.write_infos(t)
            if clock is not None:
                clock[t, 1] = perf_counter_ns()
            if not self._active and self.idle:
                break  # the remaining rows are blank

    def _follow_up(self, slot: SlotRows, t: int) -> None:
        """Record what follows from step t, when all environments have taken it."""
        row = self._row
        if row.lost:
            self._lose(t, row.lost)
        if self._starting:
            self._go_on_starting(slot, t)
        slot.write_rewards(t, row)
        if slot.env_info is not None:
            slot.write_infos(t)
        if row.ended:
            self._follow(slot, t, row.ended)

    def _follow(self, slot: SlotRows, t: int, ended: list[int]) -> None:
        """Reset the environments whose episodes ended at step t, or let them wait, as the rule says."""
        resets, gone = [], []
        for i in ended:
            slot.null_previous(t + 1, i)
            if self._rule.reset_now(i):
                resets.append(i)
            else:
                self._wait(slot, i, t + 1)
                gone.append(i)
        if resets:
            gone += self._reset(slot, t + 1, resets)
        if gone:
            self._active = self._active.copy()
            for i in gone:
                self._active.remove(i)
        self._actions.ended(ended)

    def _lose(self, t: int, lost: list[tuple[int | None, ProcessFailure]]) -> None:
        """Note environments that failed in step t; others are being started in their place."""
        for i, error in lost:
            loss = LostEnvironment(error)
            self._losses.append(loss)
            if i is None:
                continue
            self._losing[i] = loss
            if i in self._active:
                self._episodes.count(i, t)
                loss.episodes += self._episodes.under_way(i)
                self._episodes.renew(i)
                self._starting.add(i)
        self._active = [i for i in self._active if i not in self._starting]
        lost.clear()

    def take_losses(self) -> list[LostEnvironment]:
        """The environments that failed since the last call, with the number of rows that are blank because of it.

        One that is not replaced yet is also in the next list, without its error, for further blank rows.
        """
        losses, self._losing = self._losses, {i: LostEnvironment(None) for i in self._losing}
        self._losses = list(self._losing.values())
        return [loss for loss in losses if loss.error is not None or loss.steps]

    def _go_on_starting(self, slot: SlotRows, t: int) -> None:
        """Blank row t of environments that are starting, and row t + 1 of those that have still not started."""
        started = self._row.started
        for i in self._starting:
            self._episodes.skip(t, i)
            slot.skip(t, i)
            if i in self._losing:
                self._losing[i].steps += 1
            if i not in started:
                slot.blank_inputs(t + 1, i)
        for i in started:
            slot.null_previous(t + 1, i)
            self._losing.pop(i, None)
            self._starting.remove(i)
        if started:
            self._actions.ended(started)
            self._active = sorted(self._active + started)
            self._row.started = []

    def _begin(self, slot: SlotRows) -> None:
        slot.begin(self._kept)
        self._episodes.begin()
        if self._rule.resets_at_begin and self._waits_from:
            waiting, self._waits_from = sorted(self._waits_from), {}
            self._reset(slot, 0, waiting)
            self._actions.ended(waiting)
            self._activate()
        for i in self._waits_from:
            self._wait(slot, i, 0)

    def _wait(self, slot: SlotRows, i: int, start: int) -> None:
        """Do not step environment i from row `start` on."""
        self._waits_from[i] = start
        self._episodes.wait(start, i)
        slot.wait(start, i)

    def _finish(self, slot: SlotRows, T: int) -> None:
        slot.finish(self._waits_from.items(), self._starting)
        self._episodes.finish(T)
        self._row.check_rewards(T)
        i = 0
        try:
            for i in self._active:
                self._episodes.count(i, T)
        except BaseException as exc:
            raise EnvironmentFault("counting in a TrajInfo", self._first + i, self._evaluation) from exc
        slot.keep(T, self._kept)

    def _reset(
        self,
        slot: SlotRows,
        t: int,
        environments: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        phase: Callable[[str], None] | None = None,
        masks: list[Any] | None = None,
        anew: bool = False,
    ) -> Sequence[int]:
        """Reset environments and record their observations in row t; with `masks`, also note which actions are legal.

        Returns:
            Those that did not answer yet, and start later.
        """
        write, row = self._writer.write, slot.observation[t]
        if self._reset_seed is not None:
            seeds = self._seeds_of(environments, seeds, self._reset_seed)

        def on_reset(i: int, observation: Any, info: Any) -> None:
            write(row, i, observation)
            slot.write_start(t, i, info)
            if masks is not None:
                masks[i] = action_mask(observation, info)

        later = self._unit.reset(environments, seeds, self._reset_options, on_reset, phase=phase, anew=anew)
        for i in later:
            slot.blank_inputs(t, i)
            self._starting.add(i)
        return later

    def _seeds_of(
        self, environments: Sequence[int], first: Sequence[int] | None, reset_seed: Callable[[int, int], int]
    ) -> Sequence[int]:
        """Seeds of all n environments: `first` if these are the first resets, else new ones for `environments`."""
        seeds = list(first or self._seeds)
        for i in environments:
            if first is None:
                seeds[i] = reset_seed(i, self._resets[i])
            self._resets[i] = self._resets[i] + 1 if first is None else 1
        return seeds

    def _activate(self) -> None:
        others = self._starting.union(self._waits_from)
        self._active = [i for i in range(self._n) if i not in others]
