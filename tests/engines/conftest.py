"""One event loop: the tests of samplers try both, for all kinds."""

import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}
