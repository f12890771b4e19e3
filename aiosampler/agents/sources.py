"""Matching the tensors of a module or state_dict that is published, by name, with those of the parameter store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from aiosampler.agents.modules import AVERAGED, ModuleTensors, check_tensor, inner_name
from aiosampler.errors import ConfigError

if TYPE_CHECKING:
    from aiosampler.agents.parameters import ParameterSpec

_Sources = list[torch.Tensor | None]


class SourceMatcher:
    """Finds the tensor that is copied to each tensor of the store.

    A module that was published before is not searched again, unless a module, parameter or buffer of it was replaced.

    Args:
        parameters: Specs of the tensors.
    """

    def __init__(self, parameters: Sequence[ParameterSpec]) -> None:
        self._parameters = parameters
        self._known: WeakKeyDictionary[nn.Module, tuple[ModuleTensors, _Sources]] = WeakKeyDictionary()

    def match(self, source: nn.Module | Mapping[str, Any] | None) -> _Sources:
        """The tensors for `parameters`, in their order; None for a buffer that a state_dict does not have to contain.

        Raises:
            ConfigError: A name, shape or dtype is not that of the agent's model.
            TypeError: `source` is neither a module nor a mapping of tensors.
        """
        if source is None:
            if self._parameters:
                raise ConfigError("publish() needs a module: the agent has no model in this process")
            return []
        if isinstance(source, nn.Module):
            known = self._known.get(source)
            if known is None or not known[0].unchanged():
                found = ModuleTensors(source)
                known = found, self._by_name(found.tensors, source)
                self._known[source] = known
            sources = known[1]
        elif isinstance(source, Mapping):
            sources = self._by_name(self._of_state_dict(source), source)
        else:
            raise TypeError(f"publish() takes a module of torch or its state_dict(), got a {type(source).__name__}")
        for spec, tensor in zip(self._parameters, sources, strict=True):
            if tensor is not None and (tensor.dtype is not spec.dtype or tensor.shape != spec.shape):
                raise ConfigError(
                    f"the parameter {spec.name!r} of {_what(source)} is {tensor.dtype}{list(tensor.shape)}; "
                    f"the agent's model has {spec.dtype}{list(spec.shape)}"
                )
        return sources

    def _by_name(self, tensors: Mapping[str, torch.Tensor], source: Any) -> _Sources:
        """Find the tensor of each spec; refuse tensors that are missing or superfluous."""
        sources: _Sources = []
        left, plain = dict(tensors), isinstance(source, Mapping)
        for spec in self._parameters:
            found = {name: left.pop(name) for name in spec.names if name in left}
            if len(found) < len(spec.names) and not (plain and (found or spec.scratch)):
                missing = next(name for name in spec.names if name not in found)
                raise ConfigError(
                    f"{_what(source)} has no parameter {missing!r}, which the agent's model has"
                    f"{self._hint(tensors, source)}"
                )
            first = next(iter(found.values()), None)
            for name, tensor in found.items():
                if not _same(tensor, first, by_value=plain):
                    raise ConfigError(
                        f"{spec.name!r} and {name!r} are one tensor in the agent's model (tied), and two in "
                        f"{_what(source)}; tie them there as well"
                    )
            sources.append(first)
        if left:
            raise ConfigError(
                f"{_what(source)} has a parameter {next(iter(left))!r}, which the agent's model has not"
                f"{self._hint(tensors, source)}"
            )
        return sources

    def _hint(self, tensors: Mapping[str, torch.Tensor], source: Any) -> str:
        """Advice for a module that contains the agent's model in a wrapper that is not known here."""
        for spec in self._parameters[:1]:
            for name in tensors:
                prefix = name.removesuffix(spec.name)
                if prefix.endswith(".") and all(prefix + spec.name in tensors for spec in self._parameters):
                    return (
                        f"; it is a {type(source).__name__}, which has all of them under {prefix[:-1]!r}: publish that"
                    )
        return ""

    def _of_state_dict(self, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors of a state_dict by their names without the prefixes of wrappers."""
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    f"publish() takes a module of torch or its state_dict(), a mapping of names to tensors; "
                    f"this one has a {type(value).__name__} at {name!r}"
                )
            check_tensor(name, value)
        names = {name for spec in self._parameters for name in spec.names}
        inner = {inner_name(name): name for name in names}
        wrapped = any(inner_name(name) != name for name in state)
        tensors: dict[str, torch.Tensor] = {}
        for name, value in state.items():
            ours = name if name in names else inner.get(inner_name(name), name)
            if ours not in names and wrapped and name.rpartition(".")[2] == AVERAGED:
                continue
            tensors[name if ours in tensors else ours] = value
        return tensors


def _what(source: Any) -> str:
    return "the state_dict to publish" if isinstance(source, Mapping) else "the module to publish"


def _same(a: torch.Tensor, b: Any, *, by_value: bool) -> bool:
    """Whether two tensors are the same; in a state_dict, where they may be copies, whether their values are equal."""
    if a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.dtype is b.dtype):
        return True
    return by_value and a.shape == b.shape and torch.equal(a.detach(), b.detach().to(a.device))
