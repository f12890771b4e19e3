"""Turning an exception in a child process into the error that the user sees."""

import pickle
import traceback

from aiosampler.collectors.environments import AgentFault, EnvironmentFault
from aiosampler.collectors.recording import Mismatch
from aiosampler.errors import (
    AgentError,
    EnvironmentFailed,
    ResourceError,
    SamplerError,
    WorkerError,
    process_name,
    shortened,
    text_of,
)
from aiosampler.memory.progress import environment_name
from aiosampler.pickling import dumps
from aiosampler.runtime.breakpoints import NO_TERMINAL, debugger_quit
from aiosampler.runtime.resources import denial

LONGEST_TRACEBACK = 100_000  # characters


def describe(exc: BaseException, process: str, rank: int | None = None, *, starting: bool = False) -> SamplerError:
    """Make the error that is sent to the user's process, with the traceback as a note.

    Args:
        exc: The exception that was raised.
        process: Name of the process, ``"user"`` for that of the user.
        rank: Rank of the worker, None in other processes.
        starting: Whether `env_fn` was being tried out.
    """
    where = process_name(process)
    match exc:
        case SamplerError() if _travels(exc):
            return exc
        case EnvironmentFault():
            cause = exc.__cause__ or exc
            if exc.env_index is None:
                who = "evaluation environment" if exc.evaluation else "environment"
            else:
                who = environment_name(exc.env_index, exc.evaluation, exc.more)
            kind = EnvironmentFailed if starting else WorkerError
            what = text_of(cause) if isinstance(cause, Mismatch) else f"{type(cause).__name__}: {text_of(cause)}"
            error: SamplerError = kind(
                f"{who} failed in {where} while {exc.doing}: {what}",
                process=process,
                rank=rank,
                env_index=None if exc.more else exc.env_index,
                evaluation=exc.evaluation,
            )
        case AgentFault():
            cause = exc.__cause__ or exc
            error = AgentError(f"{exc} (in {where})", process=process, rank=rank)
        case _ if (denied := denial(exc)) is not None:
            cause = exc
            error = ResourceError(f"{where} failed: {denied}")
        case _:
            cause = exc
            error = WorkerError(f"{where} failed: {type(exc).__name__}: {text_of(exc)}", process=process, rank=rank)
    if debugger_quit(cause):  # of a debugger that was started without `breakpoint()`, at the end of its input
        error.add_note(NO_TERMINAL)
    error.add_note(f"Traceback in {where}:\n{_traceback(cause)}")
    return error


def _traceback(exc: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException:  # formatting calls the exception's own code, which may raise
        text = f"{''.join(traceback.format_tb(exc.__traceback__))}{type(exc).__name__}: {text_of(exc)}"
    return shortened(text, LONGEST_TRACEBACK)


def _travels(exc: SamplerError) -> bool:
    """Whether an error can be pickled as it is; its class may be the user's."""
    try:
        pickle.loads(dumps(exc))
    except BaseException:
        return False
    return True
