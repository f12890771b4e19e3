"""Each kind of sampler in turn; the event loop is the same code in all of them, so only the serial one meets both."""

import pytest

from tests.support.samplers import KINDS


@pytest.fixture(
    params=[
        pytest.param(("serial", False), id="serial-asyncio"),
        pytest.param(("serial", True), id="serial-uvloop"),
        pytest.param(("cpu", False), id="cpu"),
        pytest.param(("gpu", False), id="gpu"),
        pytest.param(("devices", False), id="devices"),
        pytest.param(("alternating", False), id="alternating"),
        pytest.param(("no-overlap", True), id="no-overlap"),
    ]
)
def kind_and_loop(request):
    return request.param


@pytest.fixture
def kind(kind_and_loop):
    """Makes a sampler of the kind."""
    return KINDS[kind_and_loop[0]]


@pytest.fixture
def anyio_backend(kind_and_loop):
    return "asyncio", {"use_uvloop": kind_and_loop[1]}
