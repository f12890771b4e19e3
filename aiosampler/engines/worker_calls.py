"""Calls of environments that are in workers, and what is to be told again to those that replace them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aiosampler.workers.messages import Ask, Call, Called, Loss, Work, renewed

if TYPE_CHECKING:
    from collections.abc import Iterable


class CallReplay:
    """What the environments of some workers were told.

    Of several calls with one name only the last is kept, so this does not grow with the time that a sampler runs.

    Args:
        wanted: Whether workers are replaced at all.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._calls: dict[tuple[bool, int, Ask, str], Call] = {}  # in the order in which they were made

    def note(self, call: Call, called: Called) -> None:
        """Keep a call for the environments that did it; what one raised, or did not live to do, is not told again."""
        if not self._wanted or call.ask is Ask.GET:
            return
        for b, packed in call.each(called.results):
            key = (call.evaluation, b, call.ask, call.name)
            self._calls.pop(key, None)
            self._calls[key] = call._replace(environments=(b,), arguments=(packed,))

    def renewed(self, work: Work) -> Work:
        """The same work for the process that comes after, which is told what the environments before were told."""
        share = work.share
        calls = [
            call
            for call in self._calls.values()
            if call.environments[0] in (share.evaluation if call.evaluation else share.environments)
        ]
        return dataclasses.replace(renewed(work), calls=calls)


def merged(answers: Iterable[Called], losses: Iterable[Loss] = ()) -> Called:
    """One answer of several processes, and what was lost beside it."""
    results, errors, all_losses = {}, {}, list(losses)
    for answer in answers:
        results.update(answer.results)
        errors.update(answer.errors)
        all_losses.extend(answer.losses)
    return Called(results, errors, tuple(all_losses))
