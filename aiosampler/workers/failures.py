"""Turning what went wrong in a process into the one exception that the user sees."""

import traceback

from aiosampler.collectors.environments import AgentFault, EnvironmentFault
from aiosampler.collectors.recording import Mismatch
from aiosampler.errors import AgentError, EnvironmentFailed, SamplerError, WorkerError
from aiosampler.runtime.breakpoints import NO_TERMINAL, debugger_quit


def describe(exc: Exception, process: str, rank: int | None = None, *, starting: bool = False) -> SamplerError:
    """Make the error that goes to the user's process, with the traceback as a note.

    Args:
        exc: What was raised.
        process: Name of the process.
        rank: Of the worker.
        starting: Whether `env_fn` was being tried out.
    """
    match exc:
        case SamplerError():
            return exc
        case EnvironmentFault():
            cause = exc.__cause__ or exc
            which = "evaluation environment" if exc.evaluation else "environment"
            who = which if exc.env_index is None else f"{which} {exc.env_index}"
            kind = EnvironmentFailed if starting else WorkerError
            what = str(cause) if isinstance(cause, Mismatch) else f"{type(cause).__name__}: {cause}"
            error: SamplerError = kind(
                f"{who} failed in the {process} process while {exc.doing}: {what}",
                process=process,
                rank=rank,
                env_index=exc.env_index,
                evaluation=exc.evaluation,
            )
        case AgentFault():
            cause = exc.__cause__ or exc
            error = AgentError(f"{exc} (in the {process} process)", process=process, rank=rank)
        case _:
            cause = exc
            error = WorkerError(
                f"the {process} process failed: {type(exc).__name__}: {exc}", process=process, rank=rank
            )
    if debugger_quit(cause):  # a debugger that is not `breakpoint()`, and has read the end of its input
        error.add_note(NO_TERMINAL)
    text = "".join(traceback.format_exception(cause))
    error.add_note(f"Traceback in the {process} process:\n{text}")
    return error
