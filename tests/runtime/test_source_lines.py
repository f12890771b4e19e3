"""Tracebacks of code that travelled by value."""

import linecache
import pickle

from aiosampler.pickling import dumps
from aiosampler.runtime.source_lines import with_source_lines

TRACE = 'Traceback (most recent call last):\n  File "<cell 7>", line 2, in step\nValueError: no\n'


def test_a_line_that_is_known_here_alone_is_added(monkeypatch):
    monkeypatch.setitem(linecache.cache, "<cell 7>", (10, None, ["one\n", "    raise ValueError('no')\n"], "<cell 7>"))
    completed = TRACE.replace("in step\n", "in step\n    raise ValueError('no')\n")
    assert with_source_lines(TRACE) == completed
    assert with_source_lines(completed) == completed


def test_a_line_that_is_not_known_is_left_out():
    assert with_source_lines(TRACE) == TRACE


def test_code_that_travels_by_value_keeps_its_file():
    scope = {"__name__": "__main__"}
    exec(compile("class World:\n    def step(self):\n        return lambda: 1\n", "script.py", "exec"), scope)
    World = pickle.loads(dumps(scope["World"]))
    assert World.step.__code__.co_filename == "script.py"
    assert World().step()() == 1
    assert World().step().__code__.co_filename == "script.py"
