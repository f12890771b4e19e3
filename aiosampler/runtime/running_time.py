"""Time in which this process ran, which deadlines are measured by: none passes while a whole job is suspended."""

import time


class RunningTime:
    """Counts seconds, but for those in which this process was stopped and could not look at the clock.

    Whoever waits looks every `interval` seconds at most. Much more than that between two looks means that this process
    was stopped, with all others of its job as a rule, as by Ctrl-Z. Twice in a row means that it is but busy, and
    counts for one interval.

    Args:
        limit: The shortest deadline that is measured, in seconds.
    """

    def __init__(self, limit: float = 2.0) -> None:
        self.interval = min(limit / 4, 0.5)
        self._longest = 2 * self.interval + 0.1
        self._last, self._sum, self._jumped = time.monotonic(), 0.0, False

    def seconds(self) -> float:
        """Look at the clock; return how long this process ran since this was made."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        jumped, self._jumped = self._jumped, elapsed > self._longest
        if not self._jumped:
            self._sum += elapsed
        elif jumped:
            self._sum += self.interval
        return self._sum
