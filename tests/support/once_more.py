"""Tests that say once more, with other parameters, what others say: they are marked as slow."""

import collections

import pytest

from tests.support.samplers import EVERYWHERE, FOR_RELEASES, SAME_CODE


def mark_as_slow(items):
    """Mark them, of all tests that were collected, by the marks `same_code`, `each_kind` and `each_value`."""
    by_function = {}
    for item in items:
        by_function.setdefault(getattr(item, "function", item), []).append(item)
    for cases in by_function.values():
        if any(case.get_closest_marker(mark) for case in cases for mark in ("same_code", "each_kind")):
            _mark_kinds(cases)
        if any(case.get_closest_marker("each_value") for case in cases):
            _mark_combinations(cases)


def _mark_kinds(cases):
    """All kinds of samplers are slow but the first of those that have their code in common."""
    kinds = set().union(*map(kinds_of, cases))
    first = {next(kind for kind in alike if kind in kinds) for alike in SAME_CODE if kinds.intersection(alike)}
    for case in cases:
        if kinds_of(case) - first:
            case.add_marker(pytest.mark.slow)
        if case.get_closest_marker("same_code") and any(FOR_RELEASES.get(kind) in kinds for kind in kinds_of(case)):
            case.add_marker(pytest.mark.release)


def _mark_combinations(cases):
    """All are slow but as many as have every value of every parameter; what starts no process costs nothing."""
    left = [case for case in cases if not case.get_closest_marker("slow") and kinds_of(case) != {"in-process"}]
    tried = collections.Counter()

    def news(case):
        """How many of its values no other has, and then how seldom others have them."""
        times = [tried[value] for value in _values(case)]
        return times.count(0), -sum(times)

    while left and news(best := max(left, key=news))[0]:
        tried.update(_values(best))
        left.remove(best)
    for case in left:
        case.add_marker(pytest.mark.slow)


def _values(case):
    """Which values of its parameters a case has, by their ids."""
    return set(enumerate(case.callspec._idlist))


def kinds_of(case):
    """The kinds of samplers among the parameters of a test, by name, or by name with the loop to try it on."""
    values = case.callspec.params.values() if hasattr(case, "callspec") else ()
    names = (value[0] if isinstance(value, tuple) and value else value for value in values)
    kinds = (name.partition("-asyncio")[0].partition("-uvloop")[0] for name in names if isinstance(name, str))
    return {kind for kind in kinds if kind in EVERYWHERE}
