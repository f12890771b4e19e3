"""The service as a user runs it, and one event loop: the servers have their own."""

import pytest


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A server for the tests of a module, which start and end runs of their own."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from tests.support.serving import serving

    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def anyio_backend():
    return "asyncio"
