"""Everything that aiosampler raises on purpose.

::

    SamplerError
    ├── ConfigError (also ValueError)    an argument is wrong; said before any process starts where it can be
    │   └── UnknownAttribute (also AttributeError)  ... an environment has none of that name
    ├── WorkerDied                       a process ended and reported nothing: killed, crashed, out of memory
    ├── WorkerError                      an environment or a callback raised in a process
    │   └── EnvironmentFailed (also ConfigError)    ... while `env_fn` was tried out at the start
    ├── WorkerTimeout                    a process runs but makes no progress
    ├── AgentError                       the agent raised, or returned what does not fit
    ├── ResourceError                    the system does not grant descriptors or processes
    │   └── ArenaError                   ... the shared memory
    └── SamplerClosed                    the sampler is not running

Facts are attributes; the message says what happened and what to do. The traceback of another process arrives as a
note of the exception (:pep:`678`), so that it is printed below it.
"""

import signal


class SamplerError(Exception):
    """Root of all errors of this package."""


class ConfigError(SamplerError, ValueError):
    """An argument is wrong; the message names it, what it got and what is allowed."""


class UnknownAttribute(ConfigError, AttributeError):
    """An environment has no attribute or method of that name."""


class SamplerClosed(SamplerError):
    """The sampler was not started, was closed, or was closed by an earlier failure."""


class ResourceError(SamplerError):
    """The system does not grant what the sampler needs: descriptors, processes, memory."""


class ArenaError(ResourceError):
    """The system does not grant the shared memory; the message gives the number of bytes."""


class ProcessFailure(SamplerError):
    """Base class of failures in a process of the sampler.

    Attributes:
        process: Name of the process, such as ``"sampler"`` or ``"worker-3"``; ``"user"`` is yours.
        rank: Number of the worker, None where there are no workers.
        env_index: Global index of the environment (0 to B - 1) at fault, None if it is not known.
        evaluation: Whether `env_index` counts the evaluation environments.
        earlier: Failures of workers that were replaced before; see `max_worker_restarts`.
    """

    earlier: "tuple[ProcessFailure, ...]" = ()

    def __init__(
        self,
        message: str = "",
        *,
        process: str = "sampler",
        rank: int | None = None,
        env_index: int | None = None,
        evaluation: bool = False,
    ) -> None:
        super().__init__(message)
        self.process = process
        self.rank = rank
        self.env_index = env_index
        self.evaluation = evaluation


class WorkerDied(ProcessFailure):
    """A process ended without reporting anything; `exitcode` is negative for a signal."""

    exitcode: int | None = None


class WorkerError(ProcessFailure):
    """An environment, or a callback of the user, raised an exception in a process."""


class EnvironmentFailed(WorkerError, ConfigError):
    """`env_fn` makes no usable environment; found when it is tried out at the start."""


class WorkerTimeout(ProcessFailure):
    """A process runs but made no progress before its deadline."""


class AgentError(ProcessFailure):
    """The agent raised, or returned a shape, dtype or batch size that does not fit."""


def process_name(process: str) -> str:
    """The name of a process in messages; ``"user"`` is the user's own, where ``in_process=True`` has everything."""
    return "your process" if process == "user" else f"the {process} process"


def exit_reason(exitcode: int | None) -> str:
    """Say how a process ended: ``"exit code 3"``, ``"SIGKILL (out of memory?)"``."""
    if exitcode is None:
        return "an exit code that is not known"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


LONGEST_TEXT = 10_000


def text_of(exc: BaseException) -> str:
    """The message of an exception, shortened if it is very long; also if its `__str__` raises."""
    try:
        return shortened(str(exc), LONGEST_TEXT)
    except BaseException:
        try:
            return shortened(repr(exc.args), LONGEST_TEXT)
        except BaseException:
            return "(it cannot be shown)"


def shortened(text: str, longest: int) -> str:
    """`text` as any stream can write it, with its middle left out if it is longer than `longest` characters."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}\n... ({len(text):,} characters) ...\n{text[-longest // 2 :]}"
    return text.encode(errors="backslashreplace").decode()  # without lone surrogates
