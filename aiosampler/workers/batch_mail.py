"""Requests for batches and the answers to them by mailbox, between the user's process and the sampler process.

Other messages go over the socket of the two, as does the answer of a batch in which something was lost, or whose
episodes are not all in shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiosampler.signals.batch_requests import AnsweredEpisodes
from aiosampler.signals.mailbox import Mailbox
from aiosampler.workers.messages import Batch, Collect

if TYPE_CHECKING:
    from aiosampler.memory.arena_map import ArenaViews
    from aiosampler.signals.counter import Signal

_USER, _SAMPLER = range(2)


class BatchMail:
    """The common part of both ends.

    Args:
        side: Which end this is.
        signals: The signals to the user's process and to the sampler process.
    """

    def __init__(self, side: int, signals: tuple[Signal, Signal]) -> None:
        self._box = Mailbox(side, signals)
        self.fileno, self.clear = self._box.fileno, self._box.clear

    def connect(self, views: ArenaViews) -> None:
        """Begin to use the mailbox in the arena."""
        self._box.connect(views.mailbox)

    def close(self) -> None:
        """End all use of the arena, and close the signals; idempotent."""
        self._box.close()


class UserMail(BatchMail):
    """The end of the user's process.

    Args:
        signals: The signals to the user's process and to the sampler process.
    """

    def __init__(self, signals: tuple[Signal, Signal]) -> None:
        super().__init__(_USER, signals)
        self._episodes: AnsweredEpisodes | None = None

    def connect(self, views: ArenaViews) -> None:
        """Begin to use the mailbox in the arena."""
        super().connect(views)
        self._episodes = AnsweredEpisodes(views.answers, views.episodes)

    def post(self, message: Any) -> bool:
        """Send a request for a batch; return False for any other message."""
        if type(message) is not Collect or not self._box.connected:
            return False
        self._box.send(message.itr, message.slot)
        return True

    def take(self) -> Batch | None:
        """The answer that has arrived; None if there is none."""
        numbers = self._box.take()
        if numbers is None:
            return None
        assert self._episodes is not None
        itr, slot, version, nanoseconds, number, *_ = numbers
        return Batch(itr, slot, version, self._episodes.of(number), nanoseconds / 1e9)

    def close(self) -> None:
        """End all use of the arena, and close the signals; idempotent."""
        self._episodes = None
        super().close()


class SamplerMail(BatchMail):
    """The end of the sampler process.

    Args:
        signals: The signals to the user's process and to the sampler process.
    """

    def __init__(self, signals: tuple[Signal, Signal]) -> None:
        super().__init__(_SAMPLER, signals)

    def post(self, message: Any) -> bool:
        """Send the answer to a request for a batch; return False for one that must go over the socket."""
        if type(message) is not Batch or not message.number or message.losses or not self._box.connected:
            return False
        itr, slot, version, _, seconds, _, number = message
        self._box.send(itr, slot, version, round(seconds * 1e9), number)
        return True

    def take(self) -> Collect | None:
        """The request that has arrived; None if there is none."""
        numbers = self._box.take()
        return None if numbers is None else Collect(*numbers[:2])
