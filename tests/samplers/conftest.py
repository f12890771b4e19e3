"""Each kind of sampler in turn; the event loop is the same code in all of them, so only the serial one meets both."""

import pytest

from tests.support.samplers import KINDS, LOCKSTEP

UVLOOP = {"serial-uvloop", "no-overlap"}


def pytest_generate_tests(metafunc):
    """Try a test with each kind if it asks for one; else it is a test of its own, on one loop."""
    if "kind_and_loop" in metafunc.fixturenames:
        kinds = LOCKSTEP if metafunc.definition.get_closest_marker("lockstep") else KINDS
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
