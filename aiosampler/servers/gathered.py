"""Acting for any environments at once, wherever each of them stands: rows are gathered, and answers scattered."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.agent import Agent, AgentInputs
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.final_values import FinalInputs
from aiosampler.collectors.local_agent import Recorder, call_agent, check_versions, versions_of
from aiosampler.errors import text_of
from aiosampler.memory.slot import columns
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiosampler.memory.slot import Slot


class Place(NamedTuple):
    """Where a member stands: the columns of its environments in row t of a slot."""

    member: int
    slot: int
    t: int
    environments: range


class GatheredStepper:
    """Steps an agent on some of B environments, each in a row and a slot of its own, and records what it answers.

    The inputs are copies, but where all stand in one row, in neighbouring columns: there they are views, as elsewhere.

    Args:
        agent: Initialised, on the CPU.
        slots: Arrays of the slots, all B columns.
        shares: The environments of each member, which are always in one place, in order; the agent counts from the
            first of them on.
        waits: Whether an environment whose episode ended waits for the next batch.
    """

    def __init__(self, agent: Agent, slots: Sequence[Slot], shares: Sequence[range], *, waits: bool = False) -> None:
        self._agent, self._slots, self._shares = agent, slots, shares
        self._B = B = slots[0]["reward"].shape[1]
        self._first, self._n = shares[0].start, shares[-1].stop - shares[0].start
        self._flat = [_Flat(slot) for slot in slots]
        self._staged = rows_like(self._flat[0].inputs, B)
        self._copies: dict[int, AgentInputs] = {}  # views of what is staged, by how many environments there are
        self._answers = {name: tree_map(lambda a: np.empty_like(a[0]), slots[0][name]) for name in _ANSWERS}
        self._action, self._info = (Recorder(name, self._answers[name]) for name in _ANSWERS)
        self._initial = agent.initial_state(B)
        self._state = tree_map(torch.clone, self._initial)
        first = slots[0]["initial_state"]
        self._initial_state, self._state_rows = Recorder("state", first), tree_map(np.empty_like, first)
        self._acting: Acting
        self._answer: tuple[Tree, Tree]  # to what was launched last: action and agent info
        self._value = Recorder("value", slots[0]["bootstrap_value"])
        self._values = slots[0]["bootstrap_value"] is not None
        self._parts = [[columns(slot, share.start, len(share)) for share in shares] for slot in slots]
        self._final = [FinalInputs(len(share)) for share in shares]
        self._stepping: list[tuple[int, int] | None] = [None] * len(shares)  # slot and row of the step that is taken
        self._waits = waits
        self._waiting = [np.zeros(len(share), np.bool_) for share in shares]

    @property
    def recurrent(self) -> bool:
        """Whether there is a state to keep."""
        return self._initial is not None

    def begin(self, member: int, slot: int) -> None:
        """Record the recurrent state that a member's columns of a batch begin with."""
        self._final[member].begin()
        if self.recurrent:
            waiting = np.flatnonzero(self._waiting[member])
            if len(waiting):  # they have been reset
                self._reset(waiting + self._shares[member].start)
                self._waiting[member][:] = False
            target = self._parts[slot][member]["initial_state"]
            self._initial_state.write(tree_leaves(target), self._fetched(self._state_of(member)))

    def stepped(self, members: Sequence[int]) -> None:
        """Members have taken their steps: the recurrent state of episodes that ended, or have yet to begin, is void."""
        void = []
        for member in members:
            place, self._stepping[member] = self._stepping[member], None
            if not self.recurrent or place is None:
                continue
            slot, t = place
            part = self._parts[slot][member]
            done = part["terminated"][t] | part["truncated"][t]
            ended = np.flatnonzero(done | ~part["valid"][t])
            if len(ended):
                self._keep(member, ended.tolist(), part)
                void.append(ended + self._shares[member].start)
                if self._waits:
                    self._waiting[member] |= done
        if void:
            self._reset(np.concatenate(void))

    def void(self, members: Sequence[int]) -> None:
        """Begin anew with these members: with the initial state, and nothing is recorded of what they were asked."""
        for member in members:
            self._stepping[member] = None
        if self.recurrent:
            shares = [self._shares[member] for member in members]
            self._reset(np.concatenate([np.arange(share.start, share.stop) for share in shares]))

    def launch(self, places: Sequence[Place], version: int) -> None:
        """Step the agent for environments in some places, when what was launched before has been recorded.

        Args:
            places: Where they are.
            version: Of the policy.

        Raises:
            AgentFault: The agent raised.
        """
        for place in places:
            self._stepping[place.member] = place.slot, place.t
        self._acting = _acting(places, self._B, version)
        self._infer(self._acting)

    def settle(self) -> None:
        """Wait for all that was queued on a device; blocks this thread."""

    def done(self) -> bool:
        """Whether what was launched has come to its end."""
        return True

    def record(self) -> None:
        """Record actions, infos and the policy version of what was launched.

        Raises:
            AgentFault: The agent answered what does not fit.
        """
        action, agent_info = self._answer
        acting = self._acting.without([place for place in self._acting.places if self._stepping[place.member] is None])
        n = len(acting.environments)
        self._action.write(self._rows("action", n), action)
        self._info.write(self._rows("agent_info", n), agent_info)
        for slot, rows, of_step in acting.spans:
            self._flat[slot].record(rows, of_step, self._answers, acting.version)

    def finish(self, member: int, slot: int, T: int, *, idle: bool) -> None:
        """Record the values of what follows a member's columns, and of what its episodes ended with, if asked for.

        Raises:
            AgentFault: The agent raised, or answered what does not fit.
        """
        self._flat[slot].check_inputs()
        if not self._values:
            return
        part, share, final = self._parts[slot][member], self._shares[member], self._final[member]
        environments = torch.arange(share.start, share.stop) - self._first
        if not idle:
            inputs = tree_map(lambda leaf: leaf[T * self._B :][share.start : share.stop], self._flat[slot].inputs)
            value = self._value_of(inputs._replace(environments=environments), self._state_of(member))
            self._value.write((part["bootstrap_value"],), value)
        values = np.empty_like(part["bootstrap_value"])
        for k, ended, inputs, state in final.ends(part, self._initial_of(member)):
            self._value.write((values,), self._value_of(inputs._replace(environments=environments), state))
            part["final_value"][ended, k] = values[ended]

    def _infer(self, acting: Acting) -> None:
        """Have the agent act; what it answers is there when it is `done`.

        Raises:
            AgentFault: It raised, or its state does not fit.
        """
        n, index = len(acting.environments), torch.from_numpy(acting.environments)
        inputs = self._inputs(acting.spans, n)._replace(environments=index - self._first if self._first else index)
        state = tree_map(lambda leaf: leaf[index], self._state)
        try:
            action, agent_info, state = self._agent.step(inputs, state)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc
        self._answer = action, agent_info
        if self.recurrent:
            rows_of_state = tree_map(lambda array: array[:n], self._state_rows)
            self._initial_state.write(tree_leaves(rows_of_state), state)  # which checks it
            tree_map(lambda leaf, new: leaf.index_copy_(0, index, torch.from_numpy(new)), self._state, rows_of_state)

    def _keep(self, member: int, ended: list[int], part: Slot) -> None:
        """Keep the states in which episodes ended, if values of them are asked for."""
        if self._values:
            self._final[member].keep(part, ended, self._state_of(member), self._initial_of(member))

    def _reset(self, environments: Any) -> None:
        """Put the state of environments back to the initial one."""
        index = torch.from_numpy(environments)
        tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        return call_agent("value()", self._agent.value, inputs, tree_map(torch.clone, state))

    def _fetched(self, tree: Tree) -> Tree:
        """The same in memory of the host."""
        return tree

    def _state_of(self, member: int) -> Tree:
        share = self._shares[member]
        return tree_map(lambda leaf: leaf[share.start : share.stop], self._state)

    def _initial_of(self, member: int) -> Tree:
        share = self._shares[member]
        return tree_map(lambda leaf: leaf[share.start : share.stop], self._initial)

    def _rows(self, name: str, n: int) -> list[Any]:
        return [leaf[:n] for leaf in tree_leaves(self._answers[name])]

    def _inputs(self, spans: Sequence[_Span], n: int) -> AgentInputs:
        if len(spans) == 1 and (np.diff(spans[0].rows) == 1).all():
            first = int(spans[0].rows[0])
            return tree_map(lambda leaf: leaf[first : first + n], self._flat[spans[0].slot].inputs)  # type: ignore[no-any-return]
        self._gather(spans, self._staged)
        if n not in self._copies:
            self._copies[n] = tree_map(lambda staged: staged[:n], self._staged)
        return self._copies[n]

    def _gather(self, spans: Sequence[_Span], staged: AgentInputs) -> None:
        """Copy the inputs of some rows to where they are staged."""
        for slot, rows, of_step in spans:
            index = torch.from_numpy(rows)
            tree_map(
                lambda leaf, to, index=index, of_step=of_step: torch.index_select(leaf, 0, index, out=to[of_step]),
                self._flat[slot].inputs,
                staged,
            )


_ANSWERS = ("action", "agent_info")


class _Span(NamedTuple):
    """Rows of a slot by their number ``t * B + b``, and which of a step's rows they are."""

    slot: int
    rows: np.ndarray[Any, np.dtype[np.int64]]
    of_step: Any  # slice, or indices


class Acting(NamedTuple):
    """One step of the agent.

    Attributes:
        places: In order of slots and environments.
        environments: int64 ``[n]``: which have a row in this step.
        spans: Where the rows are, for each slot.
        version: Of the policy.
    """

    places: Sequence[Place]
    environments: np.ndarray[Any, np.dtype[np.int64]]
    spans: Sequence[_Span]
    version: int

    def without(self, lost: Sequence[Place]) -> Acting:
        """The same, but for the rows of some places."""
        if not lost:
            return self
        gone = np.concatenate([np.arange(place.environments.start, place.environments.stop) for place in lost])
        spans = []
        for slot, rows, of_step in self.spans:
            kept = np.flatnonzero(~np.isin(self.environments[of_step], gone))
            spans.append(_Span(slot, rows[kept], of_step.start + kept))
        return self._replace(spans=spans)


def _acting(places: Sequence[Place], B: int, version: int) -> Acting:
    """The step for environments in some places."""
    ordered = sorted(places, key=lambda place: (place.slot, place.environments.start))
    environments = np.concatenate([np.arange(p.environments.start, p.environments.stop) for p in ordered])
    rows = environments + np.repeat([p.t * B for p in ordered], [len(p.environments) for p in ordered])
    spans, start = [], 0
    for slot in (0, 1):
        n = sum(len(place.environments) for place in ordered if place.slot == slot)
        if n:
            of_step = slice(start, start + n)
            spans.append(_Span(slot, rows[of_step], of_step))
            start += n
    return Acting(ordered, environments, spans, version)


def rows_like(tree: Tree, n: int) -> Tree:
    """Memory for n rows of tensors ``[N, ...]``."""
    return tree_map(lambda leaf: torch.zeros((n, *leaf.shape[1:]), dtype=leaf.dtype), tree)


class _Flat:
    """The arrays of a slot with one axis for time and environment.

    Args:
        slot: Its arrays, all B columns, so that this is a view.
    """

    def __init__(self, slot: Slot) -> None:
        _, self._B = slot["reward"].shape
        names = ("observation", "prev_action", "prev_reward")
        with torch.inference_mode(False):  # or torch would not count who writes to them
            observation, prev_action, prev_reward = (_flat_tensors(slot[name]) for name in names)
            infos = _flat_tensors(slot["prev_env_info"] or None)
        self.inputs = AgentInputs(observation, prev_action, prev_reward, infos)
        self._written = {name: tree_map(_flat, slot[name]) for name in (*_ANSWERS, "prev_action")}
        self._version = _flat(slot["policy_version"])
        self._watched = versions_of(self.inputs)

    def check_inputs(self) -> None:
        """Refuse an agent that has written to its inputs.

        Raises:
            AgentFault: It has.
        """
        check_versions(self._watched)

    def record(self, rows: Any, of_step: Any, answers: dict[str, Tree], version: int) -> None:
        """Write what an agent answered for some rows.

        Args:
            rows: Their numbers.
            of_step: Where they are in `answers`.
            answers: Actions and agent infos.
            version: Of the policy.
        """
        written = self._written
        for name in _ANSWERS:
            tree_map(_scatter(rows, of_step), written[name], answers[name])
        tree_map(_scatter(rows + self._B, of_step), written["prev_action"], answers["action"])
        self._version[rows] = version


def _scatter(rows: Any, of_step: Any) -> Callable[[Any, Any], None]:
    return lambda array, answer: operator.setitem(array, rows, answer[of_step])


def _flat(array: Any) -> Any:
    flat = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    assert np.shares_memory(flat, array) or not array.size, "a slot is contiguous"
    return flat


def _flat_tensors(tree: Tree) -> Tree:
    return tree_map(lambda array: torch.from_numpy(_flat(array)), tree)
