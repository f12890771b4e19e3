import multiprocessing
import os
import signal
import threading

import pytest
import torch
from torch import nn

from aiosampler import ConfigError
from aiosampler.agents.parameters import ParameterStore, parameter_specs, store_specs
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


def arrays(arena, module, n_readers):
    layout = plan(store_specs(parameter_specs(module), n_readers), {})
    arena.grow(layout.total_bytes, layout.dense_bytes)
    return layout.views(arena.map(layout.total_bytes))["dense"]


@pytest.fixture
def arena():
    arena = Arena()
    yield arena
    arena.close()


def test_what_is_published_is_adopted_by_every_reader_with_its_version(arena):
    source, views = Net(), arrays(arena, Net(), 2)
    writer = ParameterStore(views, parameter_specs(source))
    readers = [ParameterStore(views, parameter_specs(source), reader) for reader in (0, 1)]
    bound = Net()
    readers[0].bind(bound)
    assert writer.publish(source, version=0) == 0
    for version in range(1, 9):
        source.fill(version % 100)
        assert writer.publish(source) == version
        assert [reader.adopt() for reader in readers] == [version, version]
        for mine, theirs in zip(bound.state_dict().values(), source.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it imports its compiler
def test_a_compiled_module_is_published_as_the_module_it_wraps(arena):
    source = Net()
    writer = ParameterStore(arrays(arena, source, 1), parameter_specs(source))
    assert writer.publish(torch.compile(source), version=4) == 4
    assert parameter_specs(torch.compile(source)) == parameter_specs(source)


def test_threads_that_publish_at_once_take_turns(arena):
    nets = [Net(), Net()]
    views = arrays(arena, nets[0], 1)
    writer, reader = (ParameterStore(views, parameter_specs(nets[0]), r) for r in (None, 0))
    bound = Net()
    reader.bind(bound)
    nets[0].fill(0)
    writer.publish(nets[0])
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
            reader.adopt()
            assert len({float(tensor.flatten()[k]) for tensor in bound.state_dict().values() for k in (0, -1)}) == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_mismatches_name_the_parameter(arena):
    net = Net()
    store = ParameterStore(arrays(arena, net, 1), parameter_specs(net))
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
    assert store.publish(net) == 1  # the failures changed nothing


def _hammer(arena, started):
    torch.set_num_threads(1)
    net = Net()
    layout = plan(store_specs(parameter_specs(net), 1), {})
    views = layout.views(arena.map(layout.total_bytes))["dense"]
    store = ParameterStore(views, parameter_specs(net))
    version = 0
    while True:
        version += 1
        net.fill(version % 128)
        store.publish(net, version=version)
        started.set()


def test_a_reader_never_sees_half_a_version_while_another_process_publishes_and_when_it_is_killed(arena):
    net = Net()
    views = arrays(arena, net, 1)
    ParameterStore(views, parameter_specs(net)).publish(net, version=0)
    context = multiprocessing.get_context("spawn")
    bound, last = Net(), -1
    for _ in range(3):
        seen = set()
        started = context.Event()
        writer = context.Process(target=_hammer, args=(arena, started))
        writer.start()
        assert started.wait(30)
        reader = ParameterStore(views, parameter_specs(net), reader=0)
        reader.bind(bound)
        adopted = 0
        while adopted < 300 or len(seen) < 20:
            adopted += 1
            last = reader.adopt()
            seen.add(last)
            values = {float(tensor.min()) for tensor in bound.state_dict().values()}
            values |= {float(tensor.max()) for tensor in bound.state_dict().values()}
            assert values == {float(last % 128)}
        os.kill(writer.pid, signal.SIGKILL)  # wherever it is
        writer.join()
        writer.close()
        assert reader.adopt() >= last  # what was complete can still be adopted


@pytest.mark.parametrize("died_reading", [0, 1, 2])
def test_a_reader_that_died_while_it_copied_does_not_stop_the_writer(arena, died_reading):
    net = Net()
    views = arrays(arena, net, 1)
    writer = ParameterStore(views, parameter_specs(net))
    for version in range(died_reading + 1):
        writer.publish(net, version=version)
    views["reading"][0] = 1 + views["latest"][0]
    for version in range(10, 20):
        net.fill(version)
        writer.publish(net, version=version)
    assert ParameterStore(views, parameter_specs(net), reader=0).adopt() == 19
    bound = Net()
    ParameterStore(views, parameter_specs(net), reader=0).bind(bound)
    assert (bound.layers[0].weight == 19).all()
