"""What ended a process is told as the kind of error that it is."""

import errno

from aiosampler import ResourceError, WorkerError
from aiosampler.workers.failures import describe


def test_descriptors_that_ran_out_behind_what_failed_are_a_resource_error():
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as denied:
            raise ImportError("no module") from denied
    except ImportError as exc:
        error = describe(exc, "sampler")
    assert type(error) is ResourceError
    assert "the sampler process failed: Too many open files; this process may open" in str(error)
    assert type(describe(OSError(errno.ENOENT, "No such file"), "sampler")) is WorkerError
