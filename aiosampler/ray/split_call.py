"""A call of environments over several actors: what each is asked, and what they have answered, by global indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosampler.workers.messages import Called

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiosampler.errors import SamplerError
    from aiosampler.workers.messages import Call, Loss


def requests(call: Call, each: int, n_actors: int) -> dict[int, Call]:
    """Divide a call over the actors that have any of its environments, by their own indices there.

    Args:
        call: By the indices of environments among those of all actors.
        each: How many environments each actor has, of the kind that is called.
        n_actors: How many actors there are.
    """
    divided = {}
    for k in range(n_actors):
        ours = list(call.each(range(k * each, (k + 1) * each)))
        if ours:
            divided[k] = call._replace(
                environments=tuple(b - k * each for b, _ in ours), arguments=tuple(packed for _, packed in ours)
            )
    return divided


def answer(answers: Mapping[int, Called], each: int, notes: Sequence[str], losses: tuple[Loss, ...]) -> Called:
    """Merge what the actors have answered.

    Args:
        answers: By actor; of those that were lost meanwhile there is none.
        each: As of `requests`.
        notes: A line for the errors of each actor.
        losses: What was lost meanwhile.
    """
    results: dict[int, bytes] = {}
    errors: dict[int, SamplerError] = {}
    for k, called in answers.items():
        results |= {k * each + b: result for b, result in called.results.items()}
        for b, error in called.errors.items():
            error.add_note(notes[k])
            errors[k * each + b] = error
    return Called(results, errors, losses)
