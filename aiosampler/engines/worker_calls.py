"""Calls of environments that are in workers, and what is to be told again to those that replace them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aiosampler.workers.messages import Ask, Call, Called, Loss, Work, renewed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiosampler.engines.losses import Losses
    from aiosampler.runtime.process_group import ProcessGroup
    from aiosampler.workers.messages import Share


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


async def call_workers(
    workers: ProcessGroup,
    shares: Sequence[Share],
    request: Call,
    *,
    losses: Losses,
    replay: CallReplay,
    timeout: float | None,
) -> Called:
    """Have those workers that have the environments of a call make it, all of them replaced that were lost.

    Args:
        workers: Of one process.
        shares: Of each of them.
        request: The call.
        losses: Told of those that are lost meanwhile.
        replay: Keeps what is to be told again.
        timeout: Seconds that one environment may take.
    """
    await workers.replace_lost()
    concerned = [
        index
        for index, share in enumerate(shares)
        if any(request.each(share.evaluation if request.evaluation else share.environments))
    ]
    await workers.send(request, concerned)
    answers = await workers.gather(timeout, concerned)
    losses.settle()
    called = merged(answers, losses.take())
    replay.note(request, called)
    workers.begin_replacing()
    return called


def merged(answers: Iterable[Called], losses: Iterable[Loss] = ()) -> Called:
    """One answer of several processes, and what was lost beside it."""
    results, errors, all_losses = {}, {}, list(losses)
    for answer in answers:
        results.update(answer.results)
        errors.update(answer.errors)
        all_losses.extend(answer.losses)
    return Called(results, errors, tuple(all_losses))
