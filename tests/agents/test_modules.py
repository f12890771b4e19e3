"""The tensors of modules of all kinds reach a copy of the agent's model, or are refused in a sentence."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from aiosampler import ConfigError
from aiosampler.agents.parameters import parameter_specs
from tests.support.stores import Store, assert_equal, scramble

pytestmark = pytest.mark.usefixtures("same_generators")


NAMES = ["actor", "critic", "cost", "risk", "goal", "memory"]


class Heads(nn.Module):
    """Layers of one shape, made in a random order; two of them tied."""

    def __init__(self, tie=True):
        super().__init__()
        self.heads = nn.ModuleDict()
        for name in random.sample(NAMES, len(NAMES)):
            self.heads[name] = nn.Linear(3, 3)
        if tie:
            self.heads["actor"].weight = self.heads["critic"].weight


class Odd(nn.Module):
    """Tensors of every kind that has memory of its own."""

    def __init__(self):
        super().__init__()
        for name in ("bfloat16", "float16", "float64", "complex64", "float8_e4m3fn"):
            dtype = getattr(torch, name)
            self.register_parameter(
                f"a_{name}", nn.Parameter(torch.zeros(3, 5).to(dtype), requires_grad=name != "float8_e4m3fn")
            )
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.nothing = None
        self.transposed = nn.Parameter(torch.zeros(3, 5).t())
        self.expanded = nn.Parameter(torch.zeros(1).expand(4))
        self.register_parameter("absent", None)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("bytes", torch.zeros(3, dtype=torch.uint8))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("mask", torch.zeros(2, 3), persistent=False)
        self.register_buffer("spread", torch.zeros(1, 3).expand(2, 3))
        self.last = nn.Parameter(torch.zeros(1, dtype=torch.float16))


class Flat(nn.Module):
    """Parameters that are slices of one vector, which the model reads as a whole."""

    def __init__(self):
        super().__init__()
        self.flat = torch.zeros(12)
        self.a, self.b = nn.Parameter(self.flat[:8].view(2, 4)), nn.Parameter(self.flat[8:])


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.flat = self.weight.detach()


def compiled_inside():
    return nn.Sequential(torch.compile(nn.Linear(3, 3)), nn.BatchNorm1d(3))


def script():
    return torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


MODELS = {
    "layers in any order": Heads,
    "odd tensors": Odd,
    "only an empty tensor": lambda: nn.ParameterList([nn.Parameter(torch.zeros(0))]),
    "slices of a vector": Flat,
    "seen by an attribute": Alias,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    "spectral_norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.ReLU()),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 4)),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(2, 2, 1).to(memory_format=torch.channels_last), nn.BatchNorm2d(2)),
    "a module twice": lambda: (lambda shared: nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}))(
        nn.Linear(2, 2)
    ),
    "compiled inside": compiled_inside,
    "parallel inside": lambda: nn.Sequential(nn.DataParallel(nn.Linear(2, 3)), nn.Linear(3, 2)),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of the compiler and of what it deprecates
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_tensor_of_a_model_reaches_its_copy(make):
    store = Store(make(), acting=make())
    assert_equal(store.model, store.acting)
    for _ in range(3):
        scramble(store.model)
        store.transfer()
        assert_equal(store.model, store.acting)
        store.transfer(store.model.state_dict())
    if isinstance(store.acting, Flat | Alias):
        assert torch.equal(torch.cat([p.detach().flatten() for p in store.acting.parameters()]), store.acting.flat)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_published_and_adopted():
    store = Store(script(), acting=script())
    for _ in range(2):
        scramble(store.model)
        store.transfer()
        assert_equal(store.model, store.acting)


def with_extra_state():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"steps": 3}

        def set_extra_state(self, state):
            pass

    return nn.Sequential(Extra(2, 2))


def sparse():
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.eye(3).to_sparse())
    return module


REFUSED = {
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3)),
        r"'0\.(weight|bias)' of the model is not initialised yet .*initialize",
    ),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), r"'weight' of the model is on the device \"meta\""),
    "extra state": (with_extra_state, r"the state '0\._extra_state' \(dict\).*register_buffer"),
    "sparse": (sparse, r"'table' of the model is no dense tensor \(torch\.sparse_coo\)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_published_is_refused_with_its_name(make, words):
    with pytest.raises(ConfigError, match=words):
        parameter_specs(make())


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"the state '0\..*no parameter and no buffer"):
        parameter_specs(torch.ao.quantization.quantize_dynamic(model, {nn.Linear}))


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"agent\.model must be a module of torch or None, got a dict; .*ModuleDict"):
        parameter_specs({"actor": nn.Linear(2, 2)})


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,
    "compile of DataParallel": lambda m: torch.compile(nn.DataParallel(m)),
    "DataParallel of compile": lambda m: nn.DataParallel(torch.compile(m)),
    "AveragedModel": AveragedModel,
    "AveragedModel of compile": lambda m: AveragedModel(torch.compile(m)),
    "state_dict": lambda m: m.state_dict(),
    "state_dict of DataParallel": lambda m: nn.DataParallel(m).state_dict(),
    "state_dict of compile": lambda m: torch.compile(m).state_dict(),
    "state_dict of AveragedModel": lambda m: AveragedModel(torch.compile(nn.DataParallel(m))).state_dict(),
    "state_dict of clones": lambda m: {name: value.clone() for name, value in m.state_dict().items()},
    "state_dict without doubles": lambda m: {k: v for k, v in m.state_dict().items() if k != "heads.actor.weight"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_module_inside_of_what_is_published_is_found(wrap):
    model = Heads()
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    store = Store(model)
    scramble(model)
    model.scratch.fill_(1)  # a state_dict has none
    store.transfer(wrap(model))
    assert_equal(model, store.acting)


@pytest.mark.filterwarnings("ignore")
def test_distributed_modules_are_unwrapped_and_sharded_ones_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        store = Store(model)
        for wrapped in (
            nn.parallel.DistributedDataParallel(model),
            torch.compile(nn.parallel.DistributedDataParallel(model)),
            nn.parallel.DistributedDataParallel(torch.compile(model)),
        ):
            scramble(model)
            store.transfer(wrapped)
            assert_equal(model, store.acting)
            scramble(model)
            store.transfer(wrapped.state_dict())
            assert_equal(model, store.acting)
    finally:
        torch.distributed.destroy_process_group()
    for module in ("torch.distributed.fsdp.fully_sharded_data_parallel", "torch.distributed.fsdp._fully_shard"):
        sharded = type("Sharded", (nn.Sequential,), {"__module__": module})(nn.Linear(3, 3))
        with pytest.raises(ConfigError, match=r"sharded by FSDP \(Sharded\).*full_state_dict=True"):
            store.publisher.publish(sharded)


class Learner(nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.policy, self.target = policy, copy.deepcopy(policy)


def test_what_is_not_the_agents_model_is_refused_with_what_to_do():
    model = Heads()
    store = Store(model)
    untied = Heads(tie=False)
    part = model.state_dict()
    del part["heads.cost.bias"]
    for source, error, words in (
        (Learner(model), ConfigError, "it is a Learner, which has all of them under 'policy': publish that"),
        (untied, ConfigError, r"'heads\.actor\.weight' and 'heads\.critic\.weight' are one tensor .*tie them"),
        (untied.state_dict(), ConfigError, "are one tensor in the agent's model"),
        (part, ConfigError, r"the state_dict to publish has no parameter 'heads\.cost\.bias'"),
        ({**model.state_dict(), "more": torch.zeros(1)}, ConfigError, "has a parameter 'more'"),
        ({"model": model.state_dict(), "epoch": 3}, TypeError, "this one has a (OrderedDict|dict) at 'model'"),
        (model.parameters(), TypeError, "got a generator"),
        (SimpleNamespace(), TypeError, "got a SimpleNamespace"),
        (Heads, TypeError, "got a type"),
    ):
        with pytest.raises(error, match=words):
            store.publisher.publish(source)


def test_modules_that_are_replaced_after_the_start_are_published():
    store = Store(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
    store.transfer()
    for replace in (
        lambda m: m.__setitem__(0, nn.Linear(2, 2)),
        lambda m: m[1].__setitem__(0, nn.Linear(2, 2)),
        lambda m: setattr(m[0], "bias", nn.Parameter(torch.randn(2))),
        lambda m: setattr(m[0].weight, "data", torch.randn(2, 2)),
        lambda m: m.load_state_dict({k: torch.randn_like(v) for k, v in m.state_dict().items()}, assign=True),
    ):
        replace(store.model)
        store.transfer()
        assert_equal(store.model, store.acting)
    for replace, words in (
        (lambda m: m.__setitem__(0, nn.Linear(2, 3)), r"'0\.weight' of the module to publish is"),
        (lambda m: m.half(), r"torch\.float16"),
        (lambda m: parametrize.register_parametrization(m[0], "weight", nn.Identity()), r"no parameter '0\.weight'"),
        (lambda m: m.append(nn.Linear(1, 1)), r"has a parameter '2\.(weight|bias)'"),
        (lambda m: m.pop(1), r"no parameter '1\.0\."),
    ):
        changed = copy.deepcopy(store.model)
        store.transfer(changed)
        replace(changed)
        with pytest.raises(ConfigError, match=words):
            store.publisher.publish(changed)
