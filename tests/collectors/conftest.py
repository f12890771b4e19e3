"""Collectors know nothing of event loops: one of them is enough for tests with a sampler around."""

import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}
