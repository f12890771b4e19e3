"""Asking a fork server: one that answers as it should is in every other test, here are those that do not."""

import errno
import itertools
import os
import pickle
import socket
import threading

import pytest

from aiosampler.runtime import fork_requests
from aiosampler.runtime.fork_requests import NUMBER, ForkServer, ServerGone, process_id
from tests.support.processes import descriptors


@pytest.fixture
def connection():
    """Both ends, of which the second is the server's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def answer(theirs, number):
    """Read a request, and say a number; what has been said last is the end of it."""

    def serve():
        header, (status, sentinel, file, *others), _, _ = socket.recv_fds(theirs, NUMBER.size, 16)
        assert os.pread(file, 100, 0) == b"body"
        assert NUMBER.unpack(header) == (4,)
        if number is not None:
            os.write(status, NUMBER.pack(number))
        for descriptor in (status, sentinel, file, *others):
            os.close(descriptor)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(("number", "error"), [(-errno.ENOMEM, errno.ENOMEM), (None, errno.EAGAIN)])
def test_a_server_that_cannot_fork_or_ends_is_an_error_of_the_system(connection, number, error):
    ours, theirs = connection
    before = descriptors().keys()
    thread = answer(theirs, number)
    status, parent_end = ForkServer(ours, 1).ask(b"body", [])
    with pytest.raises(OSError, match="the fork server could not fork") as caught:
        process_id(status)
    thread.join()
    os.close(status)
    os.close(parent_end)
    assert caught.value.errno == error
    assert descriptors().keys() == before


def test_a_server_that_is_busy_is_not_waited_for_by_who_asks(connection):
    server, before = ForkServer(connection[0], 1), descriptors().keys()
    asked = [server.ask(bytes(1 << 20), []) for _ in range(8)]
    for end in itertools.chain(*asked):
        os.close(end)
    assert descriptors().keys() == before


def test_a_server_that_is_gone_was_not_asked(connection):
    ours, theirs = connection
    theirs.close()
    before = descriptors().keys()
    with pytest.raises(ServerGone):
        ForkServer(ours, 1).ask(b"body", [])
    assert descriptors().keys() == before
    assert not ForkServer(ours, 1).settled.usable


def test_a_server_whose_modules_have_changed_is_of_no_use(connection, tmp_path):
    ours, theirs = connection
    file = tmp_path / "module.py"
    file.touch()
    settled = pickle.dumps(fork_requests.Settled(True, [], {str(file): file.stat().st_mtime_ns}))
    theirs.sendall(NUMBER.pack(len(settled)) + settled)
    server = ForkServer(ours, 1)
    assert server.settled.usable
    assert server.answers()
    os.utime(file, ns=(1, 1))
    assert not server.answers()
