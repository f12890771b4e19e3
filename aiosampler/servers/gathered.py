"""Stepping an agent for any set of environments, which may be in different rows and slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from aiosampler.agents.agent import Agent, AgentInputs
from aiosampler.collectors.agent_answers import Recorder
from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.final_values import FinalInputs
from aiosampler.collectors.local_agent import call_agent
from aiosampler.errors import text_of
from aiosampler.memory.slot import columns
from aiosampler.servers.flat_slot import FlatSlot
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.memory.slot import Slot
    from aiosampler.signals.arrivals import Members


NO_SLOT = -1

Array = np.ndarray[Any, Any]


class GatheredStepper:
    """Steps an agent for some of B environments, which may be in different rows and slots, and records its outputs.

    The inputs are gathered copies, or views if the environments are neighbouring columns of one row.

    Args:
        agent: An initialised agent on the CPU.
        slots: Arrays of the slots, all B columns.
        shares: For each member, its environments, which are always in the same row; in order. The agent's numbers of
            environments begin with the first of them.
        waits: Whether an environment whose episode ended waits for the next batch.
    """

    def __init__(self, agent: Agent, slots: Sequence[Slot], shares: Sequence[range], *, waits: bool = False) -> None:
        self._agent, self._slots, self._shares = agent, slots, shares
        self._B = B = slots[0]["reward"].shape[1]
        self._first, self._n = shares[0].start, shares[-1].stop - shares[0].start
        self._flat = [FlatSlot(slot) for slot in slots]
        self._staged = rows_like(self._flat[0].inputs, B)
        # For each number of environments, views of the staging memory, and their leaves as arrays
        self._copies: dict[int, tuple[AgentInputs, list[Array]]] = {}
        self._answers = {name: tree_map(lambda a: np.empty_like(a[0]), slots[0][name]) for name in _ANSWERS}
        self._action, self._info = (Recorder(name, self._answers[name]) for name in _ANSWERS)
        self._initial = agent.initial_state(B)
        self._state = tree_map(torch.clone, self._initial)
        first = slots[0]["initial_state"]
        self._initial_state, self._state_rows = Recorder("state", first), tree_map(np.empty_like, first)
        self._acting: Acting
        self._answer: tuple[Tree, Tree]  # action and agent info of the last launched step
        self._value = Recorder("value", slots[0]["bootstrap_value"])
        self._values = slots[0]["bootstrap_value"] is not None
        self._parts = [[columns(slot, share.start, len(share)) for share in shares] for slot in slots]
        self._final = [FinalInputs(len(share)) for share in shares]
        # For each member, slot and row of the step that it takes; NO_SLOT if it takes none. Only for a recurrent agent
        self._slot_of, self._row_of = np.full(len(shares), NO_SLOT), np.zeros(len(shares), np.int64)
        self._dropped: list[int] = []  # members whose answers to the launched step are not recorded
        self._starts = np.array([share.start for share in shares])
        self._sizes = np.array([len(share) for share in shares])
        self._single = bool((self._sizes == 1).all())
        self._waits, self._waiting = waits, np.zeros(B, np.bool_)

    @property
    def recurrent(self) -> bool:
        """Whether the agent has a recurrent state."""
        return self._initial is not None

    def begin(self, member: int, slot: int) -> None:
        """Begin a batch of a member: record the recurrent state before row 0."""
        self._final[member].begin()
        if not self.recurrent:
            return
        share = self._shares[member]
        waiting = np.flatnonzero(self._waiting[share.start : share.stop]) + share.start
        if len(waiting):  # their resets have come with this batch
            self._reset(waiting)
            self._waiting[waiting] = False
        target = self._parts[slot][member]["initial_state"]
        self._initial_state.write(tree_leaves(target), self._fetched(self._state_of(member)))

    def stepped(self, members: Members) -> None:
        """Called when members have taken their steps: reset the recurrent state where no episode goes on."""
        if not self.recurrent:
            return
        stepped = members[self._slot_of[members] != NO_SLOT]
        if not len(stepped):
            return
        void = []
        environments, spans = self._spans(stepped, self._slot_of[stepped], self._row_of[stepped])
        for slot, rows, of_step in spans:
            done, invalid = self._flat[slot].ends(rows)
            ended = environments[of_step][done | invalid]
            if len(ended):
                self._keep(slot, stepped, ended)
                void.append(ended)
                if self._waits:
                    self._waiting[environments[of_step][done]] = True
        if void:
            self._reset(np.concatenate(void))
        self._slot_of[members] = NO_SLOT

    def void(self, members: Sequence[int]) -> None:
        """Reset the recurrent state of these members, and drop what is still to be recorded for them."""
        self._dropped += members
        if self.recurrent:
            self.stepped(np.asarray(members, np.int64))  # keeps the states of episodes that ended at their last steps
            self._slot_of[members] = NO_SLOT
            shares = [self._shares[member] for member in members]
            self._reset(np.concatenate([np.arange(share.start, share.stop) for share in shares]))

    def launch(self, members: Members, slots: Members, rows: Members, version: int) -> int:
        """Start a step of the agent for the environments of some members; the last step must have been recorded.

        Args:
            members: The members.
            slots: The slot of each.
            rows: The row of each.
            version: The policy version.

        Returns:
            The number of environments.

        Raises:
            AgentFault: The agent raised.
        """
        self._dropped = []
        if self.recurrent:
            self._slot_of[members], self._row_of[members] = slots, rows
        self._acting = Acting(*self._spans(members, slots, rows), version)
        self._infer(self._acting)
        return len(self._acting.environments)

    def _spans(self, members: Members, slots: Members, rows: Members) -> tuple[Members, list[_Span]]:
        """The environments of some members, and their rows in each slot."""
        environments = self._starts[members]
        if not self._single:
            sizes = self._sizes[members]
            first = np.cumsum(sizes) - sizes
            environments = np.repeat(environments - first, sizes) + np.arange(sizes.sum())
            slots, rows = np.repeat(slots, sizes), np.repeat(rows, sizes)
        n, numbers = len(environments), rows * self._B + environments
        in_first = n - int(np.count_nonzero(slots))
        if in_first == n or not in_first:
            return environments, [_Span(0 if in_first else 1, numbers, slice(0, n))]
        order = slots.argsort(kind="stable")
        environments, numbers = environments[order], numbers[order]
        spans = enumerate((slice(0, in_first), slice(in_first, n)))
        return environments, [_Span(slot, numbers[of_step], of_step) for slot, of_step in spans]

    @property
    def slots_under_way(self) -> list[int]:
        """The slots of the launched step, in order."""
        return [span.slot for span in self._acting.spans]

    def settle(self) -> None:
        """Block this thread until all work that was queued on a device is done."""

    def done(self) -> bool:
        """Whether the launched step is complete."""
        return True

    def record(self) -> None:
        """Record actions, infos and policy version of the launched step.

        Raises:
            AgentFault: An output does not fit.
        """
        acting = self._acting
        if self._dropped:
            acting = acting.without([b for member in self._dropped for b in self._shares[member]])
        actions = self._fitting(self._action, "action", self._answer[0])
        infos = self._fitting(self._info, "agent_info", self._answer[1])
        for slot, rows, of_step in acting.spans:
            self._flat[slot].record(rows, of_step, actions, infos, acting.version)

    def _fitting(self, recorder: Recorder, name: str, answer: Any) -> list[Any]:
        """The leaves of an answer to the launched step as arrays of the recorded shapes and dtypes."""
        n = len(self._acting.environments)
        leaves = self._exact_leaves(name, answer, n)
        return self._written(recorder, name, answer, n) if leaves is None else leaves

    def _exact_leaves(self, name: str, answer: Any, n: int) -> list[Any] | None:
        """The leaves as arrays if they have exactly the recorded shapes and dtypes, else None: the fast path."""
        expected = self._answers[name]
        try:
            if isinstance(expected, dict):
                if len(answer) != len(expected):
                    return None
                pairs = [(answer[key].numpy(), array) for key, array in expected.items()]
            else:
                pairs = [(answer.numpy(), expected)]
            for leaf, array in pairs:
                if leaf.dtype != array.dtype or leaf.shape != (n, *array.shape[1:]):
                    return None
        except Exception:  # whatever it is: the general path follows, and raises a clear error if it fails too
            return None
        return [leaf for leaf, _ in pairs]

    def _written(self, recorder: Recorder, name: str, answer: Tree, n: int) -> list[Any]:
        """The leaves, checked and converted to arrays of the recorded dtypes."""
        rows = [leaf[:n] for leaf in tree_leaves(self._answers[name])]
        recorder.write(rows, answer)
        return rows

    def finish(self, member: int, slot: int, T: int, *, idle: bool) -> None:
        """Record the values of last and final observations in a member's columns, if asked for.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        self._flat[slot].check_inputs()
        if not self._values:
            return
        if not idle:
            part, share, environments = self._parts[slot][member], self._shares[member], self._numbers_of(member)
            inputs = tree_map(lambda leaf: leaf[T * self._B :][share.start : share.stop], self._flat[slot].inputs)
            value = self._value_of(inputs._replace(environments=environments), self._state_of(member))
            self._value.write((part["bootstrap_value"],), value)
        self.record_final_values(member, slot)

    def record_final_values(self, member: int, slot: int) -> None:
        """Record the values of final observations in a member's columns, if asked for; also called if it was lost.

        Raises:
            AgentFault: The agent raised, or returned what does not fit.
        """
        if not self._values:
            return
        part, final, environments = self._parts[slot][member], self._final[member], self._numbers_of(member)
        values = np.empty_like(part["bootstrap_value"])
        for k, ended, inputs, state in final.ends(part, self._initial_of(member)):
            self._value.write((values,), self._value_of(inputs._replace(environments=environments), state))
            part["final_value"][ended, k] = values[ended]

    def _infer(self, acting: Acting) -> None:
        """Run the agent; its outputs are valid when `done` returns True.

        Raises:
            AgentFault: It raised, or its state does not fit.
        """
        n, index = len(acting.environments), torch.from_numpy(acting.environments)
        inputs = self._inputs(acting.spans, n, index - self._first if self._first else index)
        state = tree_map(lambda leaf: leaf[index], self._state) if self.recurrent else None
        try:
            action, agent_info, state = self._agent.step(inputs, state)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc
        self._answer = action, agent_info
        if self.recurrent:
            rows_of_state = tree_map(lambda array: array[:n], self._state_rows)
            self._initial_state.write(tree_leaves(rows_of_state), state)  # this checks it
            tree_map(lambda leaf, new: leaf.index_copy_(0, index, torch.from_numpy(new)), self._state, rows_of_state)

    def _keep(self, slot: int, members: Members, ended: Members) -> None:
        """Keep the states in which episodes of these environments ended, if values are recorded."""
        if not self._values:
            return
        for member in members.tolist():
            share = self._shares[member]
            ours = ended[(ended >= share.start) & (ended < share.stop)] - share.start
            if len(ours):
                part = self._parts[slot][member]
                self._final[member].keep(part, ours.tolist(), self._state_of(member), self._initial_of(member))

    def _reset(self, environments: Members) -> None:
        """Reset the recurrent state of environments to the initial one."""
        index = torch.from_numpy(environments)
        tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        return call_agent("value()", self._agent.value, inputs, tree_map(torch.clone, state))

    def _fetched(self, tree: Tree) -> Tree:
        """A tree in memory of the host, here as it is."""
        return tree

    def _numbers_of(self, member: int) -> torch.Tensor:
        """The agent's numbers of a member's environments."""
        share = self._shares[member]
        return torch.arange(share.start, share.stop) - self._first

    def _state_of(self, member: int) -> Tree:
        share = self._shares[member]
        return tree_map(lambda leaf: leaf[share.start : share.stop], self._state)

    def _initial_of(self, member: int) -> Tree:
        share = self._shares[member]
        return tree_map(lambda leaf: leaf[share.start : share.stop], self._initial)

    def _inputs(self, spans: Sequence[_Span], n: int, environments: torch.Tensor) -> AgentInputs:
        rows = spans[0].rows
        if len(spans) == 1 and rows[-1] - rows[0] == n - 1 and (rows[1:] > rows[:-1]).all():
            first = int(rows[0])
            inputs: AgentInputs = tree_map(lambda leaf: leaf[first : first + n], self._flat[spans[0].slot].inputs)
        else:
            if n not in self._copies:
                copies = tree_map(lambda staged: staged[:n], self._staged)
                self._copies[n] = copies, [leaf.numpy() for leaf in tree_leaves(copies)]
            inputs, arrays = self._copies[n]
            self._gather(spans, arrays)
        observation, prev_action, prev_reward, env_info, _ = inputs
        return AgentInputs(observation, prev_action, prev_reward, env_info, environments)

    def _gather(self, spans: Sequence[_Span], staged: Sequence[Array]) -> None:
        """Copy the inputs of some rows to leaves of the staging memory that have one row for each."""
        for slot, rows, of_step in spans:
            for leaf, to in zip(self._flat[slot].arrays, staged, strict=True):
                leaf.take(rows, 0, to[of_step], "clip")  # no row is outside; "raise" would copy twice


_ANSWERS = ("action", "agent_info")


class _Span(NamedTuple):
    """Rows of a slot, numbered ``t * B + b``, and the corresponding rows of a step."""

    slot: int
    rows: Members
    of_step: Any  # slice, or indices


class Acting(NamedTuple):
    """One step of the agent.

    Attributes:
        environments: For each row of the step, its environment.
        spans: For each slot, the rows in it.
        version: The policy version.
    """

    environments: Members
    spans: Sequence[_Span]
    version: int

    def without(self, gone: Sequence[int]) -> Acting:
        """The same step, without recording for some environments."""
        spans = []
        for slot, rows, of_step in self.spans:
            kept = np.flatnonzero(~np.isin(self.environments[of_step], gone))
            spans.append(_Span(slot, rows[kept], of_step.start + kept))
        return self._replace(spans=spans)


def rows_like(tree: Tree, n: int) -> Tree:
    """New tensors with n rows, like a tree of tensors ``[N, ...]``."""
    return tree_map(lambda leaf: torch.zeros((n, *leaf.shape[1:]), dtype=leaf.dtype), tree)
