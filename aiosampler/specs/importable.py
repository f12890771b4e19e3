"""Whether a module is there, without importing it."""

import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec


def can_be_found(name: str) -> bool:
    """Whether a module is imported already, or can be found; neither it nor the packages that it is in are imported.

    Args:
        name: Its name, such as ``my_worlds.maze``.
    """
    path: Iterable[str] | None = None
    parts = name.split(".")
    for k in range(len(parts)):
        module = ".".join(parts[: k + 1])
        if (there := sys.modules.get(module)) is not None:
            path = getattr(there, "__path__", None)
            continue
        if k and path is None:
            return False  # that before it is no package
        spec = _find(module, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def _find(module: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """The spec of a module in a package with this path; `importlib.util.find_spec` would import the package."""
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, path)  # type: ignore[arg-type] # a list, or what stands for one
        except KeyError:  # a folder without `__init__.py`, which asks for the package that it is in: not imported yet
            spec = ModuleSpec(module, None, is_package=True)
            spec.submodule_search_locations = [os.path.join(each, module.rpartition(".")[2]) for each in path or ()]
        except (AttributeError, ImportError, ValueError):  # of an old finder, or one that cannot read what is there
            continue
        if spec is not None:
            return spec
    return None
