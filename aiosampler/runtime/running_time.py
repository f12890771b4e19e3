"""A clock for deadlines that stands still while this process is suspended, for example by Ctrl-Z."""

import time


class RunningTime:
    """Counts the seconds in which this process ran.

    Its user reads it at least every `interval` seconds. A much longer gap between two readings means that this process
    was stopped, usually with its whole job, and does not count. A second long gap in a row means that the process is
    only busy, and counts as one interval.

    Args:
        limit: The shortest deadline that is measured, in seconds.
    """

    def __init__(self, limit: float = 2.0) -> None:
        self.interval = min(limit / 4, 0.5)
        self._longest = 2 * self.interval + 0.1
        self._last, self._sum, self._jumped = time.monotonic(), 0.0, False

    def seconds(self) -> float:
        """Read the clock: how long this process has run since the object was made."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        jumped, self._jumped = self._jumped, elapsed > self._longest
        if not self._jumped:
            self._sum += elapsed
        elif jumped:
            self._sum += self.interval
        return self._sum
