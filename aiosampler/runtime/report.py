"""What every child tells its parent, whatever its service is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """What a process has begun to do on its way to being ready; later as well, if that is wanted for debugging."""

    name: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The process cannot go on, and ends."""

    error: Exception
    closing: bool = False  # it failed while it closed what it had open, and not before
