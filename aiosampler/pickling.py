"""Pickling what users define, by cloudpickle: what their main module defines travels by value."""

import io
from collections import ChainMap
from types import CodeType
from typing import Any, ClassVar

import cloudpickle


def dumps(value: Any) -> bytes:
    """Pickle a value; `pickle.loads` brings it back.

    Code that travels by value keeps the name of its file, so that tracebacks show its lines. Cloudpickle drops it.
    """
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    _, arguments, *_ = cloudpickle.cloudpickle._code_reduce(code)  # noqa: SLF001 - what cloudpickle's own calls
    return _code, (code.co_filename, *arguments)


def _code(filename: str, *arguments: Any) -> CodeType:
    return CodeType(*arguments).replace(co_filename=filename)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # it has no type hints
    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)
