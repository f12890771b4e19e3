"""What happens when an episode ends: the only difference between the kinds of collecting."""


class MidBatchReset:
    """Reset at once: no step of a batch is blank."""

    resets_at_begin = False

    def reset_now(self, i: int) -> bool:
        """Always."""
        return True


class WaitReset:
    """Wait for the next batch: what is left of this one is blank, so recurrent training sees whole segments."""

    resets_at_begin = True

    def reset_now(self, i: int) -> bool:
        """Never."""
        return False


class Quota:
    """Each environment runs a number of episodes that is fixed beforehand, and waits when it has run them.

    Taking the first n episodes that end, wherever they end, would favour short ones.

    Args:
        episodes: For each environment; None for no limit.
    """

    resets_at_begin = False

    def __init__(self, episodes: list[int] | None) -> None:
        self.renew(episodes)

    def renew(self, episodes: list[int] | None) -> None:
        """Give each environment a new quota."""
        self._left = None if episodes is None else list(episodes)

    def starts(self, i: int) -> bool:
        """Whether environment i has an episode to run at all."""
        return self._left is None or self._left[i] > 0

    def reset_now(self, i: int) -> bool:
        """While there are episodes left for environment i."""
        if self._left is None:
            return True
        self._left[i] -= 1
        return self._left[i] > 0


def split_evenly(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` as even as possible, the remainder to the first."""
    share, rest = divmod(total, parts)
    return [share + (part < rest) for part in range(parts)]
