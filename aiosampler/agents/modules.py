"""The tensors of a module by name, without the prefixes of wrappers, and checks that they can be published.

Names are those of the innermost module: what `DistributedDataParallel`, `DataParallel`, `torch.compile` and
`AveragedModel` put before them (``module.``, ``_orig_mod.``) is left out at every level, so a model has the same names
before and after it was wrapped. A tied tensor has several names, which are equivalent: the one that `named_parameters`
gives depends on the order in which layers were made.
"""

from __future__ import annotations

import operator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from aiosampler.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)
_SHARDED = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
#: The attribute of a `torch.compile` wrapper that holds the wrapped module.
COMPILED = "_orig_mod"
#: The buffer that `AveragedModel` adds.
AVERAGED = "n_averaged"


def _layers(module: nn.Module) -> list[nn.Module]:
    """A module and the modules that it wraps, from the outside in; one element if it is no wrapper.

    Raises:
        ConfigError: It is a wrapper that shards the parameters over processes.
    """
    layers = [module]
    while True:
        module = layers[-1]
        if any(kind.__module__.startswith(_SHARDED) for kind in type(module).__mro__):
            raise ConfigError(
                f"a module is sharded by FSDP ({type(module).__name__}), so its parameters are not all here; publish "
                "what torch.distributed.checkpoint.state_dict.get_model_state_dict gives with full_state_dict=True"
            )
        if isinstance(module, _WRAPPERS):
            layers.append(module.module)
        elif COMPILED in module._modules:  # noqa: SLF001 - other attributes are those of the wrapped module
            layers.append(module._modules[COMPILED])  # type: ignore[arg-type] # noqa: SLF001 - it is no None
        else:
            return layers


class ModuleTensors:
    """The tensors of a module, found once, with a cheap check whether they are still the same objects.

    Args:
        module: Wrapped or not.

    Attributes:
        tensors: Tensors by name; a tied one under each of its names.
        buffers: Names of those that are buffers.
        scratch: Names of the buffers that belong to no state_dict (``persistent=False``).

    Raises:
        ConfigError: A tensor has no memory of its own to copy, such as an uninitialised or a sharded one.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.buffers: set[str] = set()
        self.scratch: set[str] = set()
        self._registries: list[Any] = []
        self._empty: list[Any] = []  # registries that are
        self._walk(module, "")
        # What is in all registries, one after the other, since it is compared after each batch
        self._sizes, self._names, self._values = self._contents()

    def unchanged(self) -> bool:
        """Whether the module still has the same modules, parameters and buffers; their values may differ."""
        if any(self._empty):
            return False
        sizes, names, values = self._contents()
        return sizes == self._sizes and names == self._names and all(map(operator.is_, values, self._values))

    def _contents(self) -> tuple[list[int], list[str], list[Any]]:
        """The sizes of the registries, and all their keys and values."""
        registries = self._registries  # dicts, but of scripted modules
        names = chain.from_iterable([registry.keys() for registry in registries])
        values = chain.from_iterable([registry.values() for registry in registries])
        return [*map(len, registries)], [*names], [*values]

    def groups(self) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
        """Each tensor once, with a sorted tuple of all its names."""
        names: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            names.setdefault(id(tensor), []).append(name)
        for tied in names.values():
            yield tuple(sorted(tied)), self.tensors[tied[0]]

    def _walk(self, module: nn.Module, prefix: str) -> None:
        *wrappers, inner = _layers(module)
        for wrapper in wrappers:
            self._note(wrapper._modules)  # noqa: SLF001 - to notice when the wrapped module is replaced
        # The registries themselves, since comparing them takes a tenth of the time of torch's own walks.
        parameters, buffers, modules = inner._parameters, inner._buffers, inner._modules  # noqa: SLF001 - as said
        for registry in (parameters, buffers, modules):
            self._note(registry)
        temporary = inner._non_persistent_buffers_set  # noqa: SLF001 - there is no public way to tell
        for registry in (parameters, buffers):
            for key, tensor in registry.items():
                if tensor is None:
                    continue
                name = prefix + key
                check_tensor(name, tensor)
                self.tensors[name] = tensor
                if registry is buffers:
                    self.buffers.add(name)
                    if key in temporary:
                        self.scratch.add(name)
        for key, child in modules.items():
            if child is not None:
                self._walk(child, f"{prefix}{key}.")

    def _note(self, registry: Any) -> None:
        (self._registries if registry else self._empty).append(registry)


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that has no memory to copy from or to.

    Raises:
        ConfigError: It says why, and what to do.
    """
    if is_lazy(tensor):
        why = "is not initialised yet (a lazy module); run the model once on an example in the agent's initialize()"
    elif tensor.is_meta:
        why = 'is on the device "meta", without values; make it with to_empty(device="cpu") and initialise it'
    elif is_traceable_wrapper_subclass(tensor):
        why = f"is a {type(tensor).__name__}; publish a plain tensor, its full_tensor() or dequantize() say"
    elif tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided:
        kind = tensor.dtype if tensor.is_quantized else "nested" if tensor.is_nested else tensor.layout
        why = f"is no dense tensor ({kind}); publish a dense one, and convert it in recv_shared_memory()"
    else:
        return
    raise ConfigError(f"the parameter or buffer {name!r} of the model {why}")


def inner_name(name: str) -> str:
    """A name in a state_dict without the prefixes of wrappers."""
    return ".".join(part for part in name.split(".") if part not in (COMPILED, "module"))


def check_state(module: nn.Module, found: ModuleTensors) -> None:
    """Refuse a module whose state_dict has more than parameters and buffers, since that would not be published.

    Args:
        module: The agent's model.
        found: All its tensors.

    Raises:
        ConfigError: It names the state.
    """
    state = {inner_name(key): (key, value) for key, value in module.state_dict().items()}
    known = {inner_name(name) for name in found.tensors}
    renamed = any(inner_name(name) not in state for name in found.tensors.keys() - found.scratch)  # by a hook
    for inner, (key, value) in state.items():
        other = inner not in known and not renamed and inner.rpartition(".")[2] != AVERAGED
        if key.endswith("_extra_state") or not isinstance(value, torch.Tensor) or other:
            raise ConfigError(
                f"the agent's model has the state {key!r} ({type(value).__name__}), which is no parameter and no "
                "buffer, so it would not be published; keep it in a buffer (register_buffer), or leave its module out "
                "of agent.model"
            )
