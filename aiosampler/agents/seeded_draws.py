"""Drawing in one thread as if torch's global generators had been seeded, without touching them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_FUNCTIONS = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
_METHODS = (
    "uniform_", "normal_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_", "bernoulli_",
    "bernoulli", "multinomial",
)  # fmt: skip
_INIT = (
    "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_",
    "orthogonal_", "sparse_",
)  # fmt: skip

#: Functions that draw and have a parameter `generator`.
_DRAWING = frozenset(
    getattr(module, name)
    for module, names in ((torch, _FUNCTIONS), (torch.Tensor, _METHODS), (nn.init, _INIT))
    for name in names
)


class SeededDraws(TorchFunctionMode):
    """A context in which this thread draws from separate torch generators, one for each device.

    The numbers are those that the global generators would give when seeded. Operations without a parameter `generator`,
    such as dropout, still draw from the global ones, and so do NumPy and Python.

    Args:
        seed: Seed of each generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; if it draws and got no generator, with one of ours."""
        named = dict(kwargs or {})
        if func in _DRAWING and named.get("generator") is None:
            device = _device(args, named)
            if device.type != "meta":
                named["generator"] = self._generator(device)
        return func(*args, **named)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _device(args: tuple[Any, ...], named: Mapping[str, Any]) -> torch.device:
    """The device on which a call draws."""
    for value in (*args, *named.values()):
        if isinstance(value, torch.Tensor):
            return value.device
    given = named.get("device")
    return torch.get_default_device() if given is None else torch.device(given)
