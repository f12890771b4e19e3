"""The states of a sampler, and the error of calls after its end."""

from enum import Enum, auto

from aiosampler.errors import SamplerClosed


class State(Enum):
    """The states of a session, in the order in which it goes through them."""

    NEW = auto()
    PROBING = auto()
    PROBED = auto()
    STARTING = auto()
    RUNNING = auto()
    CLOSED = auto()


def closed(failure: BaseException | None) -> SamplerClosed:
    """The error for a call of a closed sampler, with the failure that closed it as its cause."""
    error = SamplerClosed(f"the sampler is closed{f' by: {failure}' if failure else ''}")
    error.__cause__ = failure
    return error
