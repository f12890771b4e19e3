"""Errors for descriptors, processes and memory that the system does not grant, with advice."""

import contextlib
import errno
import resource
from collections.abc import Iterator

from aiosampler.errors import ResourceError


@contextlib.contextmanager
def denied(what: str) -> Iterator[None]:
    """Turn an `OSError` in the block into a `ResourceError`.

    Args:
        what: The first half of the message: what cannot be done.
    """
    try:
        yield
    except OSError as exc:
        raise denial_of(exc, what) from exc


def denial_of(exc: OSError, what: str) -> ResourceError:
    """The error for something that failed because of an `OSError`, which is its cause."""
    error = ResourceError(f"{what}: {exc.strerror or exc}{_advice(exc)}")
    error.__cause__ = exc
    return error


def denial(exc: BaseException) -> str | None:
    """A message with advice if `exc`, or a cause of it, is that descriptors ran out; None otherwise."""
    behind: BaseException | None = exc
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno in (errno.EMFILE, errno.ENFILE):
            return f"{behind.strerror or behind}{_advice(behind)}"
        behind = behind.__cause__ or behind.__context__
    return None


def _advice(exc: OSError) -> str:
    match exc.errno:
        case errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return f"; this process may open {limit} files (`ulimit -n`): raise that, or use fewer workers"
        case errno.EFBIG:
            return "; the limit of file sizes (`ulimit -f`) holds for shared memory, too: raise that"
        case errno.ENFILE | errno.EAGAIN | errno.ENOMEM:
            return "; use fewer workers, or raise the limits of the system"
        case _:
            return ""
