"""The messages that every child process may send to its parent, whatever its service is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """The child has begun another phase of its start; with `debug`, also what it does later."""

    name: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The child has failed, and ends."""

    error: Exception
    closing: bool = False  # whether it failed only in closing what it had open
