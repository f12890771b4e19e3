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
        shares: The environments of each member; a member's are always in one place.
        waits: Whether an environment whose episode ended waits for the next batch.
    """

    def __init__(self, agent: Agent, slots: Sequence[Slot], shares: Sequence[range], *, waits: bool = False) -> None:
        self._agent, self._slots, self._shares = agent, slots, shares
        self._B = B = slots[0]["reward"].shape[1]
        self._flat = [_Flat(slot) for slot in slots]
        self._staged = tree_map(lambda leaf: torch.empty((B, *leaf.shape[1:]), dtype=leaf.dtype), self._flat[0].inputs)
        self._copies: dict[int, AgentInputs] = {}  # views of what is staged, by how many environments there are
        self._answers = {name: tree_map(lambda a: np.empty_like(a[0]), slots[0][name]) for name in _ANSWERS}
        self._action, self._info = (Recorder(name, self._answers[name]) for name in _ANSWERS)
        self._initial = agent.initial_state(B)
        self._state = tree_map(torch.clone, self._initial)
        first = slots[0]["initial_state"]
        self._initial_state, self._state_rows = Recorder("state", first), tree_map(np.empty_like, first)
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
                self.void(member, waiting)
                self._waiting[member][:] = False
            target = self._parts[slot][member]["initial_state"]
            self._initial_state.write(tree_leaves(target), self._state_of(member))

    def stepped(self, member: int) -> None:
        """A member has taken its step: the recurrent state of episodes that ended, or have yet to begin, is void."""
        place, self._stepping[member] = self._stepping[member], None
        if self.recurrent and place is not None:
            slot, t = place
            part = self._parts[slot][member]
            done = part["terminated"][t] | part["truncated"][t]
            void = np.flatnonzero(done | ~part["valid"][t])
            if len(void):
                self.void(member, void, part)
                if self._waits:
                    self._waiting[member] |= done

    def void(self, member: int, which: Any = None, part: Slot | None = None) -> None:
        """Put the recurrent state of a member's environments back to the initial one: of all, or of those in `which`.

        Args:
            member: Whose.
            which: Indices among its environments.
            part: The columns of the slot where their episodes ended.
        """
        if not self.recurrent:
            return
        share = self._shares[member]
        which = np.arange(len(share)) if which is None else which
        if part is not None and self._values:
            self._final[member].keep(part, which.tolist(), self._state_of(member), self._initial_of(member))
        index = torch.from_numpy(which + share.start)
        tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def act(self, places: Sequence[Place], version: int) -> None:
        """Step the agent for environments in some places, and record actions, infos and the policy version.

        Raises:
            AgentFault: It raised, or answered what does not fit.
        """
        for place in places:
            self._stepping[place.member] = place.slot, place.t
        spans, environments = _spans(places, self._B)
        n = len(environments)
        index = torch.from_numpy(environments)
        inputs = self._inputs(spans, n)._replace(environments=index)
        state = tree_map(lambda leaf: leaf[index], self._state)
        try:
            action, agent_info, state = self._agent.step(inputs, state)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc
        self._action.write(self._rows("action", n), action)
        self._info.write(self._rows("agent_info", n), agent_info)
        for slot, rows, span in spans:
            self._flat[slot].record(rows, span, self._answers, version)
        if self.recurrent:
            rows_of_state = tree_map(lambda array: array[:n], self._state_rows)
            self._initial_state.write(tree_leaves(rows_of_state), state)  # which checks it
            tree_map(lambda leaf, new: leaf.index_copy_(0, index, torch.from_numpy(new)), self._state, rows_of_state)

    def finish(self, member: int, slot: int, T: int, *, idle: bool) -> None:
        """Record the values of what follows a member's columns, and of what its episodes ended with, if asked for.

        Raises:
            AgentFault: The agent raised, or answered what does not fit.
        """
        self._flat[slot].check_inputs()
        if not self._values:
            return
        part, share, final = self._parts[slot][member], self._shares[member], self._final[member]
        environments = torch.arange(share.start, share.stop)
        if not idle:
            inputs = tree_map(lambda leaf: leaf[T * self._B :][share.start : share.stop], self._flat[slot].inputs)
            value = self._value_of(inputs._replace(environments=environments), self._state_of(member))
            self._value.write((part["bootstrap_value"],), value)
        values = np.empty_like(part["bootstrap_value"])
        for k, ended, inputs, state in final.ends(part, self._initial_of(member)):
            self._value.write((values,), self._value_of(inputs._replace(environments=environments), state))
            part["final_value"][ended, k] = values[ended]

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        return call_agent("value()", self._agent.value, inputs, tree_map(torch.clone, state))

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
        for slot, rows, span in spans:
            index = torch.from_numpy(rows)
            tree_map(
                lambda leaf, staged, index=index, span=span: torch.index_select(leaf, 0, index, out=staged[span]),
                self._flat[slot].inputs,
                self._staged,
            )
        if n not in self._copies:
            self._copies[n] = tree_map(lambda staged: staged[:n], self._staged)
        return self._copies[n]


_ANSWERS = ("action", "agent_info")


class _Span(NamedTuple):
    """Rows of a slot by their number ``t * B + b``, and where they are among those of a step."""

    slot: int
    rows: np.ndarray[Any, np.dtype[np.int64]]
    span: slice


def _spans(places: Sequence[Place], B: int) -> tuple[list[_Span], np.ndarray[Any, np.dtype[np.int64]]]:
    """The rows of some places, for each slot, and their environments; in order."""
    ordered = sorted(places, key=lambda place: (place.slot, place.environments.start))
    environments = np.concatenate([np.arange(p.environments.start, p.environments.stop) for p in ordered])
    rows = environments + np.repeat([p.t * B for p in ordered], [len(p.environments) for p in ordered])
    spans, start = [], 0
    for slot in (0, 1):
        n = sum(len(place.environments) for place in ordered if place.slot == slot)
        if n:
            span = slice(start, start + n)
            spans.append(_Span(slot, rows[span], span))
            start += n
    return spans, environments


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

    def record(self, rows: Any, span: slice, answers: dict[str, Tree], version: int) -> None:
        """Write what an agent answered for some rows.

        Args:
            rows: Their numbers.
            span: Where they are in `answers`.
            answers: Actions and agent infos.
            version: Of the policy.
        """
        written = self._written
        for name in _ANSWERS:
            tree_map(_scatter(rows, span), written[name], answers[name])
        tree_map(_scatter(rows + self._B, span), written["prev_action"], answers["action"])
        self._version[rows] = version


def _scatter(rows: Any, span: slice) -> Callable[[Any, Any], None]:
    return lambda array, answer: operator.setitem(array, rows, answer[span])


def _flat(array: Any) -> Any:
    flat = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    assert np.shares_memory(flat, array) or not array.size, "a slot is contiguous"
    return flat


def _flat_tensors(tree: Tree) -> Tree:
    return tree_map(lambda array: torch.from_numpy(_flat(array)), tree)
