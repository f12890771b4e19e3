"""How far a sampler has come, and what is said of one that has come to its end."""

from enum import Enum, auto

from aiosampler.errors import SamplerClosed


class State(Enum):
    """How far a session has come."""

    NEW = auto()
    PROBING = auto()
    PROBED = auto()
    STARTING = auto()
    RUNNING = auto()
    CLOSED = auto()


def closed(failure: BaseException | None) -> SamplerClosed:
    """The error of a call to a sampler that is closed, with what closed it as its cause."""
    error = SamplerClosed(f"the sampler is closed{f' by: {failure}' if failure else ''}")
    error.__cause__ = failure
    return error
