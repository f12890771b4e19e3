"""Stepping an agent on a device for any set of environments, while the event loop goes on.

The inputs of a step, and the numbers of its environments, are gathered in pinned memory and copied to the device in one
copy. The recurrent state of all environments is on the device, where the rows of a step are gathered and scattered. The
outputs are packed on the device and copied back in one copy. All of this is queued on one stream in this order. A step
is queued only after the one before was recorded, so the host never writes to pinned memory while copies are queued.

If the agent's step is captured as a graph (`Agent.cuda_graph`), there is a graph for each of a few sizes: B and the
powers of two below. A step uses the next larger size. Its surplus rows are padding: their outputs are dropped, and
their state is an extra row after those of the environments.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from aiosampler.collectors.environments import AgentFault
from aiosampler.collectors.local_agent import call_agent
from aiosampler.errors import text_of
from aiosampler.servers.device import WARM_UP_STEPS, as_tensor, copy_async, fetched, outline, require_on
from aiosampler.servers.gathered import Acting, GatheredStepper, rows_like
from aiosampler.servers.packed import PackedTensors
from aiosampler.specs.trees import Tree, tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiosampler.agents.agent import Agent, AgentInputs
    from aiosampler.memory.slot import Slot
    from aiosampler.servers.accelerator import Accelerator
    from aiosampler.signals.arrivals import Members

log = logging.getLogger(__name__)


class GatheredDeviceStepper(GatheredStepper):
    """A `GatheredStepper` for an agent on a device.

    Args:
        agent: An initialised agent, its model on the device.
        slots: As for `GatheredStepper`.
        shares: As for `GatheredStepper`.
        accelerator: The device.
        waits: As for `GatheredStepper`.
    """

    def __init__(
        self,
        agent: Agent,
        slots: Sequence[Slot],
        shares: Sequence[range],
        accelerator: Accelerator,
        *,
        waits: bool = False,
    ) -> None:
        super().__init__(agent, slots, shares, waits=waits)
        self._accelerator = accelerator
        accelerator.synchronize()  # the initial state may have been made on the device, and its parameters copied there
        self._stream, self._end = accelerator.new_stream(), accelerator.new_event()
        with accelerator.on(self._stream):
            self._initial = tree_map(lambda leaf: leaf.to(accelerator.device), self._initial)
            self._state = tree_map(lambda leaf: torch.cat((leaf, leaf[:1])), self._initial)  # see above
        self._stream.synchronize()
        self._graphs = agent.cuda_graph and accelerator.has_graphs
        self._by_rows: dict[int, _Size] = {}  # buffers and graph for each number of rows

    def settle(self) -> None:
        """Block this thread until all work that was queued on the device is done."""
        self._accelerator.synchronize()

    def done(self) -> bool:
        """Whether the launched step is complete.

        Raises:
            AgentFault: It failed on the device.
        """
        return bool(call_agent("step()", self._end.query))

    def record(self) -> None:
        """Record the launched step."""
        n, rows = len(self._acting.environments), self._size.n
        assert self._size.answer is not None
        answer = self._size.answer.here
        self._answer = tree_map(lambda leaf: leaf[:n] if leaf.shape[:1] == (rows,) else leaf, answer)
        super().record()

    def _infer(self, acting: Acting) -> None:
        n = len(acting.environments)
        rows = min(self._n, 1 << (n - 1).bit_length()) if self._graphs else n
        if rows not in self._by_rows:
            self._by_rows[rows] = _Size(self._staged, rows, self._accelerator)
        self._size = size = self._by_rows[rows]
        inputs, state_rows = size.staged.here
        self._gather(acting.spans, [array[:n] for array in size.inputs])
        environments = torch.from_numpy(acting.environments)
        inputs.environments[:n], inputs.environments[n:] = environments, environments[0]
        inputs.environments.sub_(self._first)
        state_rows[:n], state_rows[n:] = environments, self._B
        with self._accelerator.on(self._stream):
            size.staged.up()
            self._step(size)
            assert size.answer is not None
            size.answer.down()
            self._end.record()

    def _step(self, size: _Size) -> None:
        if size.graph is not None:
            size.graph.replay()
            return
        if self._graphs and size.eager_steps_left == 0 and self._capture(size):
            self._step(size)
            return
        size.eager_steps_left -= 1
        try:
            answer = self._answered(size)
            if size.answer is None or outline(size.answer.there) != outline(answer):
                size.answer = PackedTensors(answer, self._accelerator)  # a copy would convert what must be refused
            tree_map(copy_async, size.answer.there, answer)
        except BaseException as exc:  # as in `fault_of`
            raise AgentFault(f"the agent raised {type(exc).__name__} in step(): {text_of(exc)}") from exc

    def _answered(self, size: _Size) -> tuple[Tree, Tree]:
        """Run the agent, and write its new state to the rows of all environments."""
        inputs, state_rows = size.staged.there
        state = tree_map(lambda leaf: leaf[state_rows], self._state)
        action, agent_info, state = self._agent.step(inputs, state)
        tree_map(lambda leaf, new: leaf.index_copy_(0, state_rows, new), self._state, state)
        return tree_map(as_tensor, (action, agent_info))  # type: ignore[no-any-return] # of two

    def _capture(self, size: _Size) -> bool:
        assert size.answer is not None
        try:
            with self._accelerator.capture(self._stream) as graph:
                answer = self._answered(size)
                require_on(self._accelerator, answer)
                tree_map(copy_async, size.answer.there, answer)
        except Exception as exc:  # whatever it is: the agent works without a graph
            log.warning("the agent's step cannot be captured as a CUDA graph, and goes on without: %s", exc)
            self._graphs = False
            return False
        size.graph, size.held = graph, answer
        return True

    def _keep(self, slot: int, members: Members, ended: Members) -> None:
        with self._accelerator.on(self._stream):
            super()._keep(slot, members, ended)

    def _reset(self, environments: Members) -> None:
        with self._accelerator.on(self._stream):
            index = torch.from_numpy(environments).to(self._accelerator.device)
            tree_map(lambda leaf, initial: leaf.index_copy_(0, index, initial[index]), self._state, self._initial)

    def _value_of(self, inputs: AgentInputs, state: Tree) -> Any:
        """Compute values; wait for the device, so that the inputs may be written to again."""
        with self._accelerator.on(self._stream):
            there = tree_map(lambda leaf: leaf.to(self._accelerator.device, copy=True), inputs)
            value = super()._value_of(there, state)
        return call_agent("value()", self._fetched, value)

    def _fetched(self, tree: Tree) -> Tree:
        return fetched(tree, self._accelerator, self._stream)


class _Staged(NamedTuple):
    inputs: AgentInputs
    state_rows: torch.Tensor  # int64 [n]


class _Size:
    """Buffers, and maybe a graph, for steps of n rows."""

    def __init__(self, inputs: AgentInputs, n: int, accelerator: Accelerator) -> None:
        index = torch.zeros(n, dtype=torch.int64)
        like = _Staged(rows_like(inputs, n)._replace(environments=index), index)
        self.n, self.staged = n, PackedTensors(like, accelerator)
        leaves = tree_leaves(self.staged.here.inputs._replace(environments=None))
        self.inputs = [leaf.numpy() for leaf in leaves]  # in pinned memory
        self.answer: PackedTensors | None = None  # in the shapes of the last outputs
        self.graph: Any = None
        self.held: Tree = None  # keeps memory alive that the graph uses
        self.eager_steps_left = WARM_UP_STEPS
