import multiprocessing
import os
import signal
import threading

import pytest
import torch
from torch import nn

from aiosampler import ConfigError
from aiosampler.agents.adopted import AdoptedParameters
from aiosampler.agents.parameters import Publisher, Reader, parameter_specs, store_specs
from aiosampler.memory.arena import Arena
from aiosampler.memory.layout import plan


class Net(nn.Module):
    def __init__(self, width=300):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.register_buffer("count", torch.tensor(0))
        self.tiny = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))

    def fill(self, value):
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.fill_(value)


def arrays(arena, module):
    layout = plan(store_specs(parameter_specs(module)), {})
    arena.grow(layout.total_bytes, layout.dense_bytes)
    return layout.views(arena.map(layout.total_bytes)).dense


@pytest.fixture
def arena():
    arena = Arena()
    yield arena
    arena.close()


class Copy:
    """A model with what a reader adopts."""

    def __init__(self, views, module, *, copy=False):
        self.reader, self.module = Reader(views), Net()
        self.reader.adopt()
        self.adopted = AdoptedParameters(views, parameter_specs(module))
        self.adopted.bind(self.module, copy=copy)

    def adopt(self):
        version, buffer = self.reader.adopt()
        self.adopted.select(buffer)
        assert self.adopted.version == version
        return version

    def values(self):
        tensors = self.module.state_dict().values()
        return {float(end) for tensor in tensors for end in (tensor.min(), tensor.max())}


@pytest.mark.parametrize("copy", [False, True], ids=["view", "copy"])
def test_what_is_published_is_adopted_with_its_version(arena, copy):
    source, views = Net(), arrays(arena, Net())
    writer = Publisher(views, parameter_specs(source))
    assert writer.publish(source, version=0) == 0
    bound = Copy(views, source, copy=copy)
    for version in range(1, 9):
        source.fill(version)
        assert writer.publish(source) == version
        for _ in range(2):
            assert bound.adopt() == version
            assert bound.values() == {version}


def test_what_was_adopted_before_stays_as_it_is_until_it_is_left(arena):
    source, views = Net(), arrays(arena, Net())
    writer = Publisher(views, parameter_specs(source))
    bound = Copy(views, source)
    for version in range(1, 5):
        source.fill(version)
        writer.publish(source)
        buffers = {bound.reader.adopt().buffer for _ in range(3)}  # three batches could begin with it
        assert len(buffers) == 1
        assert bound.values() == {version - 1}
        bound.adopted.select(buffers.pop())
        assert bound.values() == {version}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it imports its compiler
def test_a_compiled_module_is_published_as_the_module_it_wraps(arena):
    source = Net()
    writer = Publisher(arrays(arena, source), parameter_specs(source))
    assert writer.publish(torch.compile(source), version=4) == 4
    assert parameter_specs(torch.compile(source)) == parameter_specs(source)


def test_threads_that_publish_at_once_take_turns(arena):
    nets = [Net(), Net()]
    views = arrays(arena, nets[0])
    writer = Publisher(views, parameter_specs(nets[0]))
    nets[0].fill(0)
    writer.publish(nets[0])
    bound = Copy(views, nets[0])
    stop = threading.Event()

    def publish(net):
        value = 0
        while not stop.is_set():
            value = (value + 1) % 128
            net.fill(value)
            writer.publish(net)

    threads = [threading.Thread(target=publish, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            bound.adopt()
            assert len(bound.values()) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_mismatches_name_the_parameter(arena):
    net = Net()
    store = Publisher(arrays(arena, net), parameter_specs(net))
    other = Net()
    other.extra = nn.Parameter(torch.zeros(1))
    narrow = Net()
    narrow.layers[1] = nn.Linear(300, 299)
    double = Net()
    double.tiny = nn.Parameter(torch.zeros(5))
    missing = Net()
    del missing.tiny
    for module, words in (
        (other, "'extra', which the agent's model has not"),
        (narrow, r"'layers.1.weight' of the module to publish is torch.float32\[299, 300\]; .*\[300, 300\]"),
        (double, "'tiny' .*float32.*bfloat16"),
        (missing, "no parameter 'tiny'"),
        (None, "needs a module"),
    ):
        with pytest.raises(ConfigError, match=words):
            store.publish(module)
    with pytest.raises(TypeError, match=r"publish.. takes a module of torch or its state_dict.., got a list"):
        store.publish([net])
    assert store.publish(net) == 1  # the failures changed nothing


def _hammer(arena, started):
    torch.set_num_threads(1)
    net = Net()
    layout = plan(store_specs(parameter_specs(net)), {})
    views = layout.views(arena.map(layout.total_bytes)).dense
    store = Publisher(views, parameter_specs(net))
    version = 0
    while True:
        version += 1
        net.fill(version % 128)
        store.publish(net, version=version)
        started.set()


def test_a_reader_never_sees_half_a_version_while_another_process_publishes_and_when_it_is_killed(arena):
    net = Net()
    views = arrays(arena, net)
    Publisher(views, parameter_specs(net)).publish(net, version=0)
    context = multiprocessing.get_context("fork")  # a spawned one would import torch for longer than all else takes
    last = -1
    for _ in range(3):
        seen = set()
        started = context.Event()
        writer = context.Process(target=_hammer, args=(arena, started))
        writer.start()
        assert started.wait(30)
        bound = Copy(views, net)
        adopted = 0
        while adopted < 300 or len(seen) < 20:
            adopted += 1
            last = bound.adopt()
            seen.add(last)
            assert bound.values() == {float(last % 128)}
        os.kill(writer.pid, signal.SIGKILL)  # wherever it is
        writer.join()
        writer.close()
        assert bound.adopt() >= last  # what was complete can still be adopted


@pytest.mark.parametrize("died_reading", [0, 1, 2])
def test_a_reader_that_died_while_it_copied_does_not_stop_the_writer(arena, died_reading):
    net = Net()
    views = arrays(arena, net)
    writer = Publisher(views, parameter_specs(net))
    for version in range(died_reading + 1):
        writer.publish(net, version=version)
    views["reading"][0] = 1 + views["latest"][0]
    for version in range(10, 20):
        net.fill(version)
        writer.publish(net, version=version)
    bound = Copy(views, net)
    assert bound.adopted.version == 19
    assert bound.values() == {19.0}
