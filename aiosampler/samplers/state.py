"""The states of a sampler, and the errors of calls in other states than they need."""

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


def require(expected: State, state: State, failure: BaseException | None) -> None:
    """Refuse a call in another state than it needs.

    Args:
        expected: The state that it needs.
        state: The current state.
        failure: What closed the sampler, if something did.

    Raises:
        SamplerClosed: The sampler is closed, or not started.
    """
    if state is State.CLOSED:
        raise closed(failure)
    if state is not expected:
        raise SamplerClosed("the sampler is not started: use `async with`, or async_initialize() and initialize()")
