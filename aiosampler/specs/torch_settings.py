"""Settings of torch that change results. They belong to a process, so those of the user's are told to the others."""

import contextlib
from collections.abc import Iterator
from typing import Any


def torch_settings() -> dict[str, Any]:
    """The settings of this process that are not torch's own defaults, by name."""
    return {name: value for name, value, default in _settings() if value != default}


def apply_torch_settings(settings: dict[str, Any]) -> None:
    """Make the settings of another process those of this one; torch is not imported if there are none."""
    if not settings:
        return
    import torch

    for name, value in settings.items():
        match name:
            case "default_dtype":
                torch.set_default_dtype(value)
            case "deterministic_debug_mode":
                torch.set_deterministic_debug_mode(value)
            case "float32_matmul_precision":
                torch.set_float32_matmul_precision(value)
            case _:
                setattr(torch.backends.cudnn, name, value)


def _settings() -> Iterator[tuple[str, Any, Any]]:
    import torch

    yield "default_dtype", torch.get_default_dtype(), torch.float32
    yield "deterministic_debug_mode", torch.get_deterministic_debug_mode(), 0
    with contextlib.suppress(RuntimeError):  # it was set by backend instead, which this function cannot tell
        yield "float32_matmul_precision", torch.get_float32_matmul_precision(), "highest"
    cudnn: Any = torch.backends.cudnn
    for name in ("benchmark", "deterministic"):
        yield name, getattr(cudnn, name), False
