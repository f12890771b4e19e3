"""The user's objects on their way to other processes."""

import pytest

from aiosampler.payload import Payload


def test_an_object_that_is_left_out_is_gone():
    payload = Payload({"agent": 1, "env_fn": 2}).without("agent")
    assert dict(payload.live) == {"env_fn": 2}
    with pytest.raises(KeyError) as caught:
        payload.load("agent")
    assert "while unpickling agent" in caught.value.__notes__[0]
