"""Pickling the user's objects with cloudpickle, which sends what is defined in `__main__` by value."""

import io
import random
import sys
from collections import ChainMap
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar

import cloudpickle
import numpy as np


def dumps(value: Any) -> bytes:
    """Pickle a value; `pickle.loads` loads it.

    Two things differ from cloudpickle. Code that is sent by value keeps its file name, so that tracebacks show its
    source. And functions that draw from the global generators of NumPy and Python, such as ``from numpy.random import
    randn``, draw from those of the process that loads them, where cloudpickle sends a copy of the generator.
    """
    return dumps_with_modules(value)[0]


def dumps_with_modules(value: Any) -> tuple[bytes, set[str]]:
    """Pickle a value as `dumps` does; also return the names of the modules that loading it imports."""
    with io.BytesIO() as file:
        pickler = _Pickler(file)
        pickler.dump(value)
        return file.getvalue(), {name for name in pickler.modules if _can_be_imported(name)}


def _can_be_imported(name: str) -> bool:
    return name != "__main__" and getattr(sys.modules.get(name), "__spec__", None) is not None


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    _, arguments, *_ = cloudpickle.cloudpickle._code_reduce(code)  # noqa: SLF001 - which cloudpickle calls itself
    return _code, (code.co_filename, *arguments)


def _code(filename: str, *arguments: Any) -> CodeType:
    return CodeType(*arguments).replace(co_filename=filename)


def _reduce_numpy(state: np.random.RandomState) -> str | tuple[Any, ...]:
    return (_global_numpy, ()) if state is _global_numpy() else state.__reduce__()


def _reduce_python(generator: random.Random) -> str | tuple[Any, ...]:
    return (_global_python, ()) if generator is _global_python() else generator.__reduce__()


def _global_numpy() -> Any:
    return np.random.random_sample.__self__  # type: ignore[attr-defined] # the generator of `np.random.rand` and so on


def _global_python() -> Any:
    return random.random.__self__  # type: ignore[attr-defined] # as above


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # it has no type hints
    dispatch_table: ClassVar[Any] = ChainMap(
        {CodeType: _reduce_code, np.random.RandomState: _reduce_numpy, random.Random: _reduce_python},
        cloudpickle.Pickler.dispatch_table,
    )

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(obj, type | FunctionType | BuiltinFunctionType) and isinstance(obj.__module__, str):
            self.modules.add(obj.__module__)
        return super().reducer_override(obj)
