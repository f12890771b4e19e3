"""Debuggers in processes that have no terminal: their standard input is empty, so a prompt would quit at once."""

import os
import sys
from typing import Any, NoReturn

NO_TERMINAL = (
    "breakpoint() in a process of the sampler has no terminal: "
    "use AsyncSerialSampler(..., in_process=True), which collects the same in your own process"
)


def refuse_breakpoints() -> None:
    """Have ``breakpoint()`` raise in this process, unless the user chose what it does: a remote debugger works."""
    if sys.breakpointhook is sys.__breakpointhook__ and not os.environ.get("PYTHONBREAKPOINT"):
        sys.breakpointhook = _refuse


def _refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise RuntimeError(NO_TERMINAL)


def debugger_quit(exc: BaseException) -> bool:
    """Whether an exception is that of a debugger that was told to quit, as by the end of its input."""
    bdb = sys.modules.get("bdb")  # which is loaded, if one was raised
    return bdb is not None and isinstance(exc, bdb.BdbQuit)
