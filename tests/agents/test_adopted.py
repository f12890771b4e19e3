"""The copy of a model that acts: it is the published one, and what it changes while it acts is refused."""

import pytest
import torch
from torch import nn

from aiosampler import ConfigError
from tests.support.stores import Store, assert_equal, scramble

pytestmark = pytest.mark.usefixtures("same_generators")


class Tied(nn.Module):
    def __init__(self, tie):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        if tie:
            self.b.weight = self.a.weight


def more():
    model = Tied(tie=False)
    model.more = nn.Parameter(torch.zeros(1))
    return model


def test_a_copy_that_is_another_model_is_refused_with_the_parameter():
    for acting, words in (
        (more(), "has a parameter 'more' here, and the one in the user's process not; .*same model in every process"),
        (nn.ModuleDict({"a": nn.Linear(2, 2)}), r"no parameter 'b\.(weight|bias)' here"),
        (
            nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 3)}),
            r"'b\.weight' of .* is torch\.float32\[3, 2\] here",
        ),
        (Tied(tie=False).half(), r"torch\.float16\[2(, 2)?\] here, and the one in the user's process torch\.float32"),
        (Tied(tie=True), r"'a\.weight' and 'b\.weight' of the agent's model are one tensor here"),
    ):
        with pytest.raises(ConfigError, match=words):
            Store(Tied(tie=False), acting=acting)
    store = Store(Tied(tie=True), acting=Tied(tie=False))  # both become the one that was published
    scramble(store.model)
    store.transfer()
    assert torch.equal(store.acting.b.weight, store.model.a.weight)


class Noisy(nn.Module):
    """Writes to its buffers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("noise", torch.zeros(2), persistent=False)
        self.register_buffer("large", torch.zeros(1 << 15))


def set_noise(module):
    module.noise = torch.ones(2)


CHANGES = {
    "in place": (lambda m: m.mean.add_(1), "mean"),
    "by data": (lambda m: m.mean.data.add_(1), "mean"),
    "by NumPy": (lambda m: m.mean.numpy().__iadd__(1), "mean"),
    "other data": (lambda m: setattr(m.mean, "data", torch.ones(2)), "mean"),
    "large": (lambda m: m.large.add_(1), "large"),
    "parameter": (lambda m: m.weight.add_(1), "weight"),
    "parameter's data": (lambda m: setattr(m.weight, "data", torch.ones(2)), "weight"),
    "replaced": (lambda m: setattr(m, "mean", torch.ones(2)), "mean"),
    "new parameter": (lambda m: setattr(m, "weight", nn.Parameter(torch.ones(2))), "weight"),
    "scratch": (lambda m: m.noise.add_(1), None),
    "scratch replaced": (set_noise, None),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_what_a_model_changes_while_it_acts_is_refused_but_in_its_scratch(change, name):
    store = Store(Noisy())
    for _ in range(3):
        scramble(store.model)
        store.transfer()
    with torch.inference_mode():
        change(store.acting)
    if name is None:
        store.adopted.verify(store.acting)
        scramble(store.model)
        store.transfer()
        assert_equal(store.model, store.acting)
    else:
        with pytest.raises(ConfigError, match=f"the agent('s model changes| replaced) '{name}'"):
            store.adopted.verify(store.acting)


def test_running_statistics_of_a_model_in_training_mode_are_refused():
    store = Store(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    store.transfer()
    with torch.inference_mode():
        store.acting(torch.randn(8, 2))
    with pytest.raises(ConfigError, match=r"changes '1\.(running_mean|running_var|num_batches_tracked)' while it acts"):
        store.adopted.verify(store.acting)
    store = Store(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=0.1)).eval())
    store.transfer()
    with torch.inference_mode():
        store.acting(torch.randn(8, 2))
    store.adopted.verify(store.acting)
