"""A parameter store in plain memory, with a model that publishes to it and a copy that adopts from it."""

import copy

import torch

from aiosampler.agents.adopted import AdoptedParameters
from aiosampler.agents.parameters import Publisher, Reader, parameter_specs, store_specs
from aiosampler.memory.layout import plan


class Store:
    """Both ends of a store for a model, and the copy of the model that acts."""

    def __init__(self, model, acting=None):
        self.model, self.acting = model, copy.deepcopy(model) if acting is None else acting
        specs = parameter_specs(model)
        layout = plan(store_specs(specs), {})
        views = layout.views(bytearray(layout.total_bytes)).dense
        self.publisher, self.reader, self.adopted = (
            Publisher(views, specs),
            Reader(views),
            AdoptedParameters(views, specs),
        )
        self.publisher.publish(model, version=0)
        self.reader.adopt()
        self.adopted.bind(self.acting)

    def transfer(self, source=None):
        self.publisher.publish(self.model if source is None else source)
        self.adopted.select(self.reader.adopt().buffer)
        self.adopted.verify(self.acting)


def scramble(module):
    """Give every parameter and buffer other values."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if 0 in tensor.stride():
                tensor.data = torch.randn(1).expand(tensor.shape)
            elif tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                tensor.copy_(torch.randn(tensor.shape, dtype=torch.float32).to(tensor.dtype))
            else:
                tensor.copy_(torch.randint(0, 2, tensor.shape).to(tensor.dtype))


def assert_equal(a, b):
    a, b = (
        {**dict(m.named_parameters(remove_duplicate=False)), **dict(m.named_buffers(remove_duplicate=False))}
        for m in (a, b)
    )
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(_bytes(a[name]), _bytes(b[name])), name


def _bytes(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
