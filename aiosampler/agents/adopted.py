"""The adopted parameters in a process that has the agent: bound to its model by name, and checked while it acts.

Parameters and large buffers of the model become views of the adopted memory, so no process has a copy. Nothing may
write to them: other processes read the same memory, and the next version overwrites it. Buffers with
``persistent=False``, such as the noise of a noisy layer, are copied when a version is adopted; each process may write
to its own.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch

from aiosampler.agents.modules import ModuleTensors
from aiosampler.agents.parameters import ParameterSpec, tensor_views
from aiosampler.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from aiosampler.specs.trees import Tree

_VERSION = operator.attrgetter("_version")  # torch has no public name for it
_SMALL = 1 << 16  # bytes; smaller buffers are compared after each batch, since torch does not count all writes


class AdoptedParameters:
    """The adopted parameters, in a process that has the agent.

    Args:
        arrays: Views of the arena, in the structure of `store_specs`.
        parameters: Specs of the tensors.
    """

    def __init__(self, arrays: Tree, parameters: tuple[ParameterSpec, ...]) -> None:
        self._versions = memoryview(arrays["adopted_version"])
        self._parameters = parameters
        self._tensors = [tensor_views(buffer, parameters) for buffer in arrays["adopted"]]
        self._index = {name: i for i, spec in enumerate(parameters) for name in spec.names}
        self._module: nn.Module | None = None
        self._found: ModuleTensors | None = None
        self._viewed: list[tuple[torch.Tensor, int]] = []  # each with the index of its spec
        self._copied: list[tuple[torch.Tensor, int]] = []
        self._compared: list[tuple[torch.Tensor, int]] = []
        self._watch: ModuleWatch | None = None
        self._copy = False
        self._selected = 0
        self._version: int | None = None  # the version that the model has

    @property
    def version(self) -> int:
        """The policy version of the selected buffer."""
        return self._versions[self._selected]

    def bind(self, module: nn.Module | None, *, copy: bool = False) -> None:
        """Bind the tensors of `module` to the selected buffer.

        Args:
            module: The agent's model.
            copy: Copy all of them, for a module on another device.

        Raises:
            ConfigError: Its tensors differ from those of the model in the user's process.
        """
        self._copy = copy
        self._module, self._found = module, self._match(module)
        self._assign(module, self._found)
        self.select(self._selected)

    def select(self, buffer: int) -> None:
        """Use the parameters in adopted buffer 0 or 1."""
        version = self._versions[buffer]
        if self._selected == buffer and self._version == version:
            return
        self._selected, self._version = buffer, version
        views = self._tensors[buffer]
        for target, i in self._viewed:
            target.data = views[i]
        if self._copied:
            with torch.inference_mode():  # the agent may have made a buffer anew under it
                for target, i in self._copied:
                    target.copy_(views[i], non_blocking=True)
        if self._watch is not None:
            self._watch.begin()

    def verify(self, module: nn.Module | None) -> None:
        """Refuse a model that was changed since `select`, other than in buffers with ``persistent=False``.

        Args:
            module: The agent's model.

        Raises:
            ConfigError: It names the tensor.
        """
        if self._found is None:
            return
        if module is not self._module or not self._found.unchanged():
            self._renew(module)
        assert self._watch is not None
        name = self._watch.changed()
        if name is None:
            views = self._tensors[self._selected]
            changed = (i for target, i in self._compared if not torch.equal(target, _bytes(views[i])))
            name = next((self._parameters[i].name for i in changed), None)
        if name is not None:
            raise ConfigError(changed_message(name))

    def _renew(self, module: nn.Module | None) -> None:
        """Accept a model whose modules were replaced or wrapped, if it still has the tensors that were bound."""
        assert self._found is not None
        found = self._match(module)
        for name, tensor in self._found.tensors.items():
            if found.tensors[name] is not tensor and name not in found.scratch:
                raise ConfigError(
                    f"the agent replaced {name!r} of its model, which the sampler fills with what is published; "
                    "build the model in initialize(), and change its tensors in the user's process"
                )
        self._module, self._found = module, found
        own = [(tensor, self._index[names[0]]) for names, tensor in found.groups() if found.scratch.issuperset(names)]
        self._copied = [(tensor, i) for tensor, i in self._copied if not self._parameters[i].scratch] + own

    def _match(self, module: nn.Module | None) -> ModuleTensors:
        """Find the tensors of `module`, which must match `parameters`."""
        found = ModuleTensors(torch.nn.Module() if module is None else module)
        for names, tensor in found.groups():
            for name in names:
                if name not in self._index:
                    raise ConfigError(f"the agent's model has a parameter {name!r} here, {_ELSEWHERE} not; {_ADVICE}")
                spec = self._parameters[self._index[name]]
                if tensor.shape != spec.shape or tensor.dtype is not spec.dtype:
                    raise ConfigError(
                        f"the parameter {name!r} of the agent's model is {tensor.dtype}{list(tensor.shape)} here, "
                        f"{_ELSEWHERE} {spec.dtype}{list(spec.shape)}; {_ADVICE}"
                    )
                if self._index[name] != self._index[names[0]]:
                    raise ConfigError(
                        f"{names[0]!r} and {name!r} of the agent's model are one tensor here (tied), {_ELSEWHERE} has "
                        f"two; {_ADVICE}"
                    )
        missing = next((name for name in self._index if name not in found.tensors), None)
        if missing is not None:
            model = "the agent has no model" if module is None else f"the agent's model has no parameter {missing!r}"
            raise ConfigError(f"{model} here, {_ELSEWHERE} has {missing!r}; {_ADVICE}")
        return found

    def _assign(self, module: nn.Module | None, found: ModuleTensors) -> None:
        """Decide for each tensor whether it becomes a view or is copied to, and how changes of it are found."""
        kept = set() if module is None or self._copy else sharing_memory(module, found)
        watched = []
        for names, tensor in found.groups():
            index = self._index[names[0]]
            on_cpu, scratch = tensor.device.type == "cpu", found.scratch.issuperset(names)
            alone = on_cpu and id(tensor) not in kept
            small = alone and names[0] in found.buffers and self._parameters[index].nbytes <= _SMALL
            if self._copy or not alone or scratch or small:
                if small or _expanded(tensor):
                    tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
                self._copied.append((tensor, index))
            else:
                self._viewed.append((tensor, index))
            if not scratch:
                watched.append((names[0], tensor))
                if small:
                    self._compared.append((_bytes(tensor), index))
        self._watch = ModuleWatch(watched)


class ModuleWatch:
    """Finds out cheaply that tensors were written to or got other memory, as far as torch counts that.

    Args:
        tensors: Pairs of name and tensor.
    """

    def __init__(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        named = list(tensors)
        self._names, self._all = [name for name, _ in named], [tensor for _, tensor in named]
        self.begin()

    def begin(self) -> None:
        """Remember the state of the tensors."""
        self._counted = [tensor for tensor in self._all if not tensor.is_inference()]
        self._states = self._now()

    def changed(self) -> str | None:
        """The name of a tensor that was changed since `begin`; None if none was."""
        states = self._now()
        if states == self._states:
            return None
        (versions, pointers), (old_versions, old_pointers) = states, self._states
        tensors = [*self._counted, *self._all]
        changed = zip(tensors, versions + pointers, old_versions + old_pointers, strict=True)
        return next(self._name(tensor) for tensor, now, before in changed if now != before)

    def _now(self) -> tuple[list[int], list[int]]:
        """How often each tensor was written to, as far as torch counts that, and where their memory is."""
        return [*map(_VERSION, self._counted)], [*map(torch.Tensor.data_ptr, self._all)]

    def _name(self, tensor: torch.Tensor) -> str:
        return next(name for name, each in zip(self._names, self._all, strict=True) if each is tensor)


class TrialWatch:
    """Finds any change of a model that must not change while it acts; buffers are compared by value.

    Args:
        module: The agent's model.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = ModuleTensors(module)
        lasting = {name: t for name, t in self._before.tensors.items() if name not in self._before.scratch}
        self._watch = ModuleWatch(lasting.items())
        self._values = {name: t.detach().clone() for name, t in lasting.items() if name in self._before.buffers}

    def verify(self, module: nn.Module | None) -> None:
        """Refuse a model that was changed since this object was made.

        Raises:
            ConfigError: It names the tensor.
        """
        now = {} if module is None else ModuleTensors(module).tensors
        for name, value in self._values.items():
            if name not in now or now[name].shape != value.shape or not torch.equal(_bytes(now[name]), _bytes(value)):
                raise ConfigError(changed_message(name))
        changed = self._watch.changed()
        if changed is not None:
            raise ConfigError(changed_message(changed))


def changed_message(name: str) -> str:
    """The message of the error for an agent that changes this tensor of its model while it acts."""
    return (
        f"the agent's model changes {name!r} while it acts, which is lost when new parameters come; change it in the "
        "user's process and publish it, or register it with persistent=False if it is of no use beyond this process"
    )


def sharing_memory(module: nn.Module, found: ModuleTensors) -> set[int]:
    """The ids of tensors that must keep their memory, since something else in the model is a view of it.

    That is another tensor of the model (slices of one vector), or a plain attribute of a module.
    """
    owners: dict[int, set[int]] = {}
    partial: set[int] = set()
    for tensor in found.tensors.values():
        storage = tensor.untyped_storage()
        owners.setdefault(storage.data_ptr(), set()).add(id(tensor))
        if storage.nbytes() > tensor.numel() * tensor.element_size():
            partial.add(id(tensor))
    ours = {id(tensor) for tensor in found.tensors.values()}
    seen = {value.untyped_storage().data_ptr() for value in _plain_tensors(module) if id(value) not in ours}
    owners.pop(0, None)  # empty tensors
    shared = (ids for pointer, ids in owners.items() if len(ids) > 1 or pointer in seen)
    return partial.union(*shared)


def _plain_tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    for part in module.modules():
        for value in vars(part).values():
            several = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            for item in several:
                if isinstance(item, torch.Tensor) and item.layout is torch.strided and not item.is_meta:
                    yield item


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor, to compare it by, since NaN does not equal itself."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _expanded(tensor: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


_ELSEWHERE = "and the one in the user's process"
_ADVICE = "initialize() must build the same model in every process"
