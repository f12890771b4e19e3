"""Who is told which environment it makes: what has a parameter of that name, and no one else."""

import functools

import pytest

from aiosampler.specs.context import takes


def by_keyword(*, context): ...
def by_default(a=1, context=None): ...
def by_anything(**kwargs): ...
def by_position(context, /): ...
def by_many(*context): ...
def without(a): ...


class _World:
    def __init__(self, *, context=None): ...


class _Inherits(_World): ...


class _Callable:
    def __call__(self, context): ...
    def method(self, context): ...


@functools.wraps(by_keyword)
def wrapper(*args, **kwargs): ...


@pytest.mark.parametrize(
    ("env_fn", "expected"),
    [
        (by_keyword, True),
        (by_default, True),
        (lambda context: None, True),
        (_World, True),
        (_Inherits, True),
        (_Callable(), True),
        (_Callable().method, True),
        (wrapper, True),
        (functools.partial(by_default, 2), True),
        (functools.partial(by_default, context=3), False),
        (functools.partial(by_default, 1, 2), False),
        (by_anything, False),
        (by_position, False),
        (by_many, False),
        (without, False),
        (dict, False),
        (iter, False),
    ],
)
def test_who_takes_a_context(env_fn, expected):
    assert takes(env_fn, "context") is expected
