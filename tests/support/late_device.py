"""A device that does what is queued as late as it may, and finds out who does not wait: in place of `torch.cuda`.

Its tensors are on the CPU. What is done within ``module.stream(...)`` is queued: its results hold nonsense until it is
the turn of their operation. Each look at an event does a few of the operations, of any stream, so that in between
everything is half done. When an operation runs, what it reads must be as it was when it was queued, unless something
queued before it was to change it: otherwise the host, or another stream, has written to it too early.
"""

import collections
import contextlib
import random

import torch
from torch.utils import _python_dispatch
from torch.utils import _pytree as pytree


class LateDevice:
    """Has what an `Accelerator` takes from `torch.cuda`.

    Args:
        seed: Of how much is done at a look.
        devices: How many there are.
        graphs: Whether there are graphs.
    """

    def __init__(self, seed=0, devices=1, graphs=True):
        self._rng, self._devices = random.Random(seed), devices
        self.streams, self.current, self.capturing, self.ticks = [], [], None, 0
        self.default_generators = [_Generator() for _ in range(devices)]
        self.generator = self.default_generators[0]
        self.graphs_made = 0
        if graphs:
            self.CUDAGraph, self.graph = lambda: _Graph(self), self._graph

    def is_initialized(self):
        return False

    def device_count(self):
        return self._devices

    def set_device(self, device):
        self.generator = self.default_generators[device.index or 0]

    def Stream(self, device):
        return _Stream(self)

    def Event(self, enable_timing):
        assert enable_timing
        return _Event(self)

    @contextlib.contextmanager
    def stream(self, stream):
        self.current.append(stream)
        try:
            with _Queueing(stream):
                yield
        finally:
            self.current.pop()

    def synchronize(self, device=None):
        assert self.capturing is None, "operation not permitted while a stream is capturing"
        for stream in self.streams:
            stream.synchronize()

    def advance(self):
        for stream in self._rng.sample(self.streams, len(self.streams)):
            stream.advance(self._rng.randrange(4))

    def manual_seed(self, seed):
        self.generator.manual_seed(seed)

    def get_rng_state(self, device):
        return self.generator.get_state()

    def set_rng_state(self, state, device):
        self.generator.set_state(state)

    @contextlib.contextmanager
    def _graph(self, graph, stream):
        self.synchronize()
        self.capturing = graph
        self.generator.capturing = True
        try:
            with self.stream(stream):
                yield
        finally:
            self.capturing = None
        self.generator.capturing = False  # after an error it stays, as with torch.cuda
        self.graphs_made += 1


class _Generator:
    """As that of torch.cuda, which does not come out of a capture that fails."""

    def __init__(self):
        self._generator, self.capturing = torch.Generator().manual_seed(0), False

    def manual_seed(self, seed):
        self._generator.manual_seed(seed)

    def get_state(self):
        return self._generator.get_state()

    def set_state(self, state):
        self._generator.set_state(state)

    def clone_state(self):
        clone = _Generator()
        clone.set_state(self.get_state())
        return clone

    def graphsafe_set_state(self, other):
        self._generator, self.capturing = other._generator, other.capturing

    def draw(self):
        assert not self.capturing, "offset increment outside of graph capture"
        return torch.randint(2**62, (), generator=self._generator).item()


class _Operation:
    """What is to be done, on which tensors, which of them it writes to, and whether it draws."""

    def __init__(self, run, reads=(), writes=(), draws=False):
        self.run, self.reads, self.draws = run, list(reads), draws
        self.writes = {_memory(tensor) for tensor in writes}


class _Queued:
    def __init__(self, operation, machine):
        self.operation, self.writes = operation, operation.writes
        self.seed = machine.generator.draw() if operation.draws else None
        pending = set().union(*(queued.writes for stream in machine.streams for queued in stream.queue))
        with _python_dispatch._disable_current_modes():
            self.settled = [(tensor, tensor.clone()) for tensor in operation.reads if _memory(tensor) not in pending]

    def run(self):
        for tensor, before in self.settled:
            assert _same(tensor, before), "something was changed that a queued operation was still to read"
        with contextlib.ExitStack() as stack:
            if self.seed is not None:
                stack.enter_context(torch.random.fork_rng(devices=()))
                torch.default_generator.manual_seed(self.seed)
            self.operation.run()


class _Stream:
    def __init__(self, machine):
        self.machine, self.queue = machine, collections.deque()
        machine.streams.append(self)

    def enqueue(self, operation):
        if self.machine.capturing is not None:
            self.machine.capturing.operations.append(operation)
        else:
            self.queue.append(_Queued(operation, self.machine))

    def advance(self, n):
        with _python_dispatch._disable_current_modes(), torch.inference_mode():
            for _ in range(min(n, len(self.queue))):
                self.queue.popleft().run()
                self.machine.ticks += 1

    def synchronize(self):
        assert self.machine.capturing is None, "operation not permitted while a stream is capturing"
        self.advance(len(self.queue))


class _Event:
    def __init__(self, machine):
        self._machine, self._reached, self._tick = machine, None, 0

    def record(self):
        self._reached = reached = []
        self._machine.current[-1].enqueue(_Operation(lambda: reached.append(self._machine.ticks)))

    def query(self):
        self._machine.advance()
        return bool(self._reached)

    def elapsed_time(self, other):
        return (other._reached[0] - self._reached[0]) / 1000


class _Graph:
    def __init__(self, machine):
        self._machine, self.operations = machine, []

    def replay(self):
        for operation in self.operations:
            self._machine.current[-1].enqueue(operation)


class _Queueing(_python_dispatch.TorchDispatchMode):
    """Queues operations on a stream; views are made at once, and what the host must know is waited for."""

    def __init__(self, stream):
        super().__init__()
        self._stream = stream

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with self:
            result = function.decompose(*args, **(kwargs or {}))  # operations that consist of others
        if result is not NotImplemented:
            return result
        with _python_dispatch._disable_current_modes():
            return self._dispatch(function, args, kwargs or {})

    def _dispatch(self, function, args, kwargs):
        returns, arguments = function._schema.returns, function._schema.arguments
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        draws = torch.Tag.nondeterministic_seeded in function.tags
        if any(argument.alias_info and argument.alias_info.is_write for argument in arguments):
            target = kwargs.get("out", args[0])
            reads = [tensor for tensor in tensors if tensor is not target]
            operation = _Operation(lambda: function(*args, **kwargs), reads, [target], draws)
            self._stream.enqueue(operation)
            return target
        if not returns or any(result.alias_info for result in returns) or "empty" in function.__name__:
            return function(*args, **kwargs)
        if all(str(result.type) == "Tensor" for result in returns):
            with contextlib.suppress(NotImplementedError, RuntimeError):
                return self._queue(function, args, kwargs, tensors, draws)
        self._stream.synchronize()  # the host needs to know
        return function(*args, **kwargs)

    def _queue(self, function, args, kwargs, tensors, draws):
        meta_args, meta_kwargs = pytree.tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
        if "device" in meta_kwargs:
            meta_kwargs = {**meta_kwargs, "device": "meta"}
        shapes = function(*meta_args, **meta_kwargs)
        results = pytree.tree_map_only(torch.Tensor, _nonsense_like, shapes)

        def run():
            found = function(*args, **kwargs)
            pytree.tree_map(lambda result, leaf: result.copy_(leaf), results, found)

        self._stream.enqueue(_Operation(run, tensors, pytree.tree_leaves(results), draws))
        return results


def _on_meta(tensor):
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _nonsense_like(shape):
    tensor = torch.empty_strided(shape.size(), shape.stride(), dtype=shape.dtype)
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max // 3)


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()


def _same(one, other):
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
