"""What `help()` says of the ready agents."""

import doctest

import pytest

from aiosampler import CategoricalPgAgent, DqnAgent, GaussianPgAgent, RandomAgent

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("kind", [CategoricalPgAgent, GaussianPgAgent, DqnAgent, RandomAgent])
def test_help_of_a_ready_agent_has_examples_that_run(kind):
    tests = doctest.DocTestFinder(recurse=False).find(kind, globs={})
    assert [len(test.examples) > 5 for test in tests] == [True]
    assert "recurrent=True" in kind.__doc__ or kind is RandomAgent
    assert doctest.DocTestRunner().run(tests[0]).failed == 0
