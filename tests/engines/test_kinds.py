"""Which engines there are."""

import pytest

from aiosampler.engines.kinds import EngineKind, engine_class


@pytest.mark.parametrize("kind", EngineKind)
def test_every_engine_has_a_class(kind):
    assert {"start", "collect", "evaluate", "aclose"} <= set(vars(engine_class(kind)))
