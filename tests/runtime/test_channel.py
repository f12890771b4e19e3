"""The control channel between two processes, driven in one."""

import asyncio
import os
import pickle
import socket

import pytest

from aiosampler.runtime.channel import Channel, ChannelClosed


@pytest.fixture
def anyio_backend(use_uvloop):
    return "asyncio", {"use_uvloop": use_uvloop}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def use_uvloop(request):
    return request.param


@pytest.fixture
async def ends():
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


@pytest.mark.parametrize("size", [100, 2**16, 2**17])  # of all there is to read; it is read by 2 ** 16 bytes
async def test_what_was_sent_before_the_end_is_there_for_whom_the_end_wakes(ends, size):
    channel, theirs = ends
    overhead = 8 + len(pickle.dumps(bytes(size - 8))) - (size - 8)
    message = bytes(size - overhead)
    frame = pickle.dumps(message)
    got, ended = [], asyncio.Event()

    def look():
        try:
            while (received := channel.receive_nowait()) is not None:
                got.append(received)
        except ChannelClosed:
            ended.set()

    channel.on_change = look
    sending = asyncio.to_thread(theirs.sendall, len(frame).to_bytes(8, "little") + frame)
    assert len(frame) + 8 == size
    async with asyncio.timeout(10):
        await sending
        theirs.close()
        await ended.wait()
    assert got == [message]


async def test_a_message_that_was_read_is_received_without_the_loop(ends):
    channel, theirs = ends
    frame = pickle.dumps(("hello", 1))
    theirs.sendall(len(frame).to_bytes(8, "little") + frame)
    channel.read()
    with pytest.raises(StopIteration) as received:
        channel.receive().send(None)
    assert received.value.value == ("hello", 1)


async def test_receiving_can_be_cancelled_and_loses_nothing(ends):
    channel, theirs = ends
    frame = pickle.dumps(("hello", 2))
    theirs.sendall(len(frame).to_bytes(8, "little") + frame[:3])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await channel.receive()
    theirs.sendall(frame[3:])
    async with asyncio.timeout(10):
        assert await channel.receive() == ("hello", 2)


async def test_messages_of_all_sizes_arrive_whole_and_in_order(ends):
    channel, theirs = ends
    messages = [(index, bytes(size)) for index, size in enumerate((1, 2**21, 1, 2**16, 2**17 + 1, 1, 1))]
    frames = b"".join(len(frame).to_bytes(8, "little") + frame for frame in map(pickle.dumps, messages))
    sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, frames))
    async with asyncio.timeout(10):
        assert [await channel.receive() for _ in messages] == messages
        await sending


class FakeMail:
    """Takes tuples, and has one to be received."""

    def __init__(self, descriptor):
        self.descriptor, self.posted, self.waiting, self.cleared, self.closed = descriptor, [], None, 0, False

    def fileno(self):
        return self.descriptor

    def clear(self):
        self.cleared += 1
        os.read(self.descriptor, 1)

    def post(self, message):
        if type(message) is tuple:
            self.posted.append(message)
        return type(message) is tuple

    def take(self):
        taken, self.waiting = self.waiting, None
        return taken

    def close(self):
        self.closed = True


@pytest.mark.parametrize("closed", [False, True])
async def test_mail_comes_before_messages_and_is_not_lost_when_the_other_end_closes(ends, closed):
    channel, theirs = ends
    read, write = os.pipe()
    mail = FakeMail(read)
    channel.attach(mail)
    await channel.send((1, 2))
    channel.send_now((3,))
    await channel.send("by the socket")
    assert mail.posted == [(1, 2), (3,)]
    assert pickle.loads(theirs.recv(100)[8:]) == "by the socket"
    receiving = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(0)
    mail.waiting = "a letter"
    assert channel.receive_nowait() is None  # it comes by the event loop, so whoever receives it lets others run
    os.write(write, b"x")
    async with asyncio.timeout(10):
        assert await receiving == "a letter"
    assert mail.cleared == 1
    frame = pickle.dumps("a failure")
    theirs.sendall(len(frame).to_bytes(8, "little") + frame)
    channel.read()
    mail.waiting = "another"
    if closed:
        channel.close()
        assert mail.closed
    else:
        channel.read()
    assert channel.receive_nowait() == "another"
    assert channel.receive_nowait() == "a failure"
    if closed:
        with pytest.raises(ChannelClosed):
            channel.receive_nowait()
    channel.close()
    os.close(read)
    os.close(write)
