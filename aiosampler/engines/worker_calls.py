"""Calls of environments in workers, and repeating them for environments of replaced workers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aiosampler.workers.messages import Ask, Call, Called, Loss, Work, renewed

if TYPE_CHECKING:
    from collections.abc import Iterable


class CallReplay:
    """The calls that the environments of some workers have got.

    Of several calls with the same name only the last is kept, so this does not grow with the number of calls.

    Args:
        wanted: Whether workers are replaced, so that calls must be kept.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._calls: dict[tuple[bool, int, Ask, str], Call] = {}  # in the order in which they were made

    def note(self, call: Call, called: Called) -> None:
        """Keep a call for the environments that completed it; where it raised, or was lost, it is not repeated."""
        if not self._wanted or call.ask is Ask.GET:
            return
        for b, packed in call.each(called.results):
            key = (call.evaluation, b, call.ask, call.name)
            self._calls.pop(key, None)
            self._calls[key] = call._replace(environments=(b,), arguments=(packed,))

    def renewed(self, work: Work) -> Work:
        """The work for a process that replaces a lost worker, with the calls to repeat."""
        share = work.share
        calls = [
            call
            for call in self._calls.values()
            if call.environments[0] in (share.evaluation if call.evaluation else share.environments)
        ]
        return dataclasses.replace(renewed(work), calls=calls)


def merged(answers: Iterable[Called], losses: Iterable[Loss] = ()) -> Called:
    """The answers of several processes, merged into one, with what was lost meanwhile."""
    results, errors, all_losses = {}, {}, list(losses)
    for answer in answers:
        results.update(answer.results)
        errors.update(answer.errors)
        all_losses.extend(answer.losses)
    return Called(results, errors, tuple(all_losses))
