"""CPUs that samplers place their processes on are told to others."""

import os
import sys

import pytest

from aiosampler.runtime.cpu_claims import claim_cpus

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs names without files"),
]

FIRST = 10_000 + os.getpid() * 10  # no CPU: what samplers of other tests claim is no matter here


def test_a_cpu_is_claimed_once_and_free_again_when_it_is_released():
    claim = claim_cpus([FIRST, FIRST + 1])
    assert claim is not None
    assert claim_cpus([FIRST + 1, FIRST + 2]) is None
    other = claim_cpus([FIRST + 2])  # nothing is kept of a claim that failed
    assert other is not None
    claim.release()
    claim.release()
    again = claim_cpus([FIRST, FIRST + 1])
    assert again is not None
    for each in (again, other):
        each.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_ends_somehow_claims_nothing_any_more():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"claimed" if claim_cpus([FIRST + 5]) else b"failed")
        os.kill(os.getpid(), 9)
    assert os.read(read, 10) == b"claimed"
    os.waitpid(child, 0)
    claim = claim_cpus([FIRST + 5])
    assert claim is not None
    claim.release()
    os.close(read)
    os.close(write)
