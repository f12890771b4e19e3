"""`breakpoint()` in child processes, whose standard input is empty, so that a prompt would end at once."""

import os
import sys
from typing import Any, NoReturn

NO_TERMINAL = (
    "breakpoint() in a process of the sampler has no terminal: "
    "use AsyncSerialSampler(..., in_process=True), which collects the same in your own process"
)


def refuse_breakpoints() -> None:
    """Make ``breakpoint()`` raise in this process, unless the user has set a hook, such as a remote debugger's."""
    if sys.breakpointhook is sys.__breakpointhook__ and not os.environ.get("PYTHONBREAKPOINT"):
        sys.breakpointhook = _refuse


def _refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise RuntimeError(NO_TERMINAL)


def debugger_quit(exc: BaseException) -> bool:
    """Whether `exc` is what a debugger raises when it is told to quit, or when its input ends."""
    bdb = sys.modules.get("bdb")  # already imported if such an exception was raised
    return bdb is not None and isinstance(exc, bdb.BdbQuit)
