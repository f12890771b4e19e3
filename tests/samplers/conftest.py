"""Each kind of sampler in turn; the event loop is the same code in all of them, so only the serial one meets both."""

import pytest

from tests.support.samplers import KINDS, LOCKSTEP

UVLOOP = {"serial-uvloop", "gpu", "no-overlap"}
#: Where it matters to a test who acts for whom; what the user's process does is the same code in lockstep or not.
WITH_DYNAMIC = {
    "test_batches",
    "test_calls",
    "test_closing",
    "test_environment_calls",
    "test_evaluation",
    "test_publishing",
}


def pytest_generate_tests(metafunc):
    """Try a test with each kind if it asks for one; else it is a test of its own, on one loop."""
    if "kind_and_loop" in metafunc.fixturenames:
        in_lockstep = (
            metafunc.definition.get_closest_marker("lockstep")
            or metafunc.module.__name__.rpartition(".")[2] not in WITH_DYNAMIC
        )
        kinds = LOCKSTEP if in_lockstep else KINDS
        names = ("serial-asyncio", "serial-uvloop", *(name for name in kinds if name != "serial"))
        metafunc.parametrize("kind_and_loop", [(name, name in UVLOOP) for name in names], ids=names, scope="function")


@pytest.fixture
def kind(kind_and_loop):
    """Makes a sampler of the kind."""
    name, _ = kind_and_loop
    return KINDS[name.removesuffix("-asyncio").removesuffix("-uvloop")]


@pytest.fixture
def anyio_backend(request):
    if "kind_and_loop" in request.fixturenames:
        _, use_uvloop = request.getfixturevalue("kind_and_loop")
        return "asyncio", {"use_uvloop": use_uvloop}
    return "asyncio", {"use_uvloop": False}
