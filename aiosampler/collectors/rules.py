"""The reset rules: what happens when an episode ends."""


class MidBatchReset:
    """Reset the environment at once, so that no step of a batch is blank."""

    resets_at_begin = False

    def reset_now(self, i: int) -> bool:
        """True."""
        return True


class WaitReset:
    """Reset the environment when the next batch begins; the remaining steps of this one are blank."""

    resets_at_begin = True

    def reset_now(self, i: int) -> bool:
        """False."""
        return False


class Quota:
    """Each environment runs a fixed number of episodes, and then waits; for evaluation.

    Taking the first n episodes that end, wherever they end, would favour short ones.

    Args:
        episodes: Number of episodes for each environment; None for no limit.
    """

    resets_at_begin = False

    def __init__(self, episodes: list[int] | None) -> None:
        self.renew(episodes)

    def renew(self, episodes: list[int] | None) -> None:
        """Give each environment a new quota."""
        self._left = None if episodes is None else list(episodes)

    def starts(self, i: int) -> bool:
        """Whether environment i has any episode to run."""
        return self._left is None or self._left[i] > 0

    def reset_now(self, i: int) -> bool:
        """Count an episode of environment i; return whether it has another to run."""
        if self._left is None:
            return True
        self._left[i] -= 1
        return self._left[i] > 0


def split_evenly(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` integers, as evenly as possible; the first ones get the remainder."""
    share, rest = divmod(total, parts)
    return [share + (part < rest) for part in range(parts)]
