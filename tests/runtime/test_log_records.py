"""Records of another process, as they arrive; here both ends are in one process."""

import contextlib
import logging
import pickle
import sys

import pytest

from aiosampler.runtime import log_records
from aiosampler.runtime.log_records import BURST, LogInlet


@contextlib.contextmanager
def both_ends(sender_class=log_records._Sender):
    """A logger that is as in another process, and the inlet that its records come to."""
    inlet = LogInlet()
    logger = logging.Logger("there.env", logging.DEBUG)
    sender = sender_class()
    sender.attach(inlet.outlet.sock)
    logger.addHandler(sender)
    try:
        yield logger, inlet
    finally:
        inlet.close()
        inlet.outlet.sock.close()


@pytest.fixture(autouse=True)
def everything(caplog):
    caplog.set_level(logging.DEBUG, "there")


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Peculiar:
    """Is known nowhere else."""

    def __reduce__(self):
        raise TypeError("not to be pickled")

    def __str__(self):
        return "peculiar"


async def test_a_record_arrives_as_it_was(caplog):
    with both_ends() as (logger, inlet):
        logger.info("level %d of %s", 3, "four", extra={"level": 3, "tags": ["a", {"b": None}]})
        inlet.read()
    (record,) = caplog.records
    assert (record.name, record.levelname, record.msg, record.args) == (
        "there.env",
        "INFO",
        "level %d of %s",
        (3, "four"),
    )
    assert (record.level, record.tags, record.funcName) == (3, ["a", {"b": None}], "test_a_record_arrives_as_it_was")
    assert 0 <= record.relativeCreated < 1e9


async def test_what_cannot_be_pickled_arrives_as_text(caplog):
    with both_ends() as (logger, inlet):
        logger.info("%s", Peculiar(), extra={"what": Peculiar()})
        logger.info(Peculiar())
        logger.info("%(one)s", {"one": 1})
        try:
            raise ValueError(Peculiar())
        except ValueError:
            logger.exception("failed", stack_info=True)
        inlet.read()
    assert [record.getMessage() for record in caplog.records] == ["peculiar", "peculiar", "1", "failed"]
    assert caplog.records[0].what == "peculiar"
    assert "ValueError: peculiar" in caplog.text
    assert "in test_what_cannot_be_pickled_arrives_as_text" in caplog.records[3].exc_text
    assert caplog.records[3].stack_info.startswith("Stack")


async def test_a_record_that_is_too_long_is_shortened(caplog):
    with both_ends() as (logger, inlet):
        logger.info("x" * 10**7)
        logger.info("%s", [str(i) * 9_000 for i in range(100)], extra={"z": [str(i) * 9_000 for i in range(100)]})
        inlet.read()
    assert len(caplog.records) == 2
    assert all(len(record.getMessage()) < 11_000 for record in caplog.records)
    assert "10,000,000 characters" in caplog.records[0].getMessage()


async def test_a_record_that_cannot_be_formatted_is_told_where_it_was_logged(caplog, capsys):
    with both_ends() as (logger, inlet):
        logger.info("%d", Peculiar())
        logger.info("next")
        inlet.read()
    assert [record.getMessage() for record in caplog.records] == ["next"]
    assert "--- Logging error ---" in capsys.readouterr().err


async def test_a_flood_is_cut_and_what_was_dropped_is_counted(caplog):
    with both_ends() as (logger, inlet):
        for i in range(BURST * 10):
            logger.info("%d", i)
            inlet.read()
        logger.handlers[0].tell_dropped()
        inlet.read()
    arrived = [record for record in caplog.records if record.name == "there.env"]
    dropped = [record.args[0] for record in caplog.records if record.name == "aiosampler"]
    assert BURST <= len(arrived) < BURST * 10
    assert len(arrived) + sum(dropped) == BURST * 10


async def test_nobody_waits_for_a_reader_and_what_found_no_room_is_counted(caplog, monkeypatch):
    monkeypatch.setattr(log_records, "BURST", 10**9)
    with both_ends() as (logger, inlet):
        logger.handlers[0]._allowed = 10**9
        for i in range(10_000):
            logger.info("%d %s", i, "x" * 1_000)
        logger.handlers[0].tell_dropped()  # finds no room either, and forgets nothing
        await inlet.drain()
        logger.handlers[0]._told = 0.0
        logger.info("after")
        await inlet.drain()
    arrived = [record for record in caplog.records if record.name == "there.env"]
    (dropped,) = [record.args[0] for record in caplog.records if record.name == "aiosampler"]
    assert arrived[-1].getMessage() == "after"
    assert len(arrived) + dropped == 10_001
    assert dropped > 1_000


async def test_loggers_here_decide(caplog, monkeypatch):
    here = logging.getLogger("there.env")
    with both_ends() as (logger, inlet):
        monkeypatch.setattr(here, "level", logging.WARNING)
        logging.getLogger().manager._clear_cache()
        logger.info("not wanted")
        logger.warning("wanted")
        inlet.read()
        monkeypatch.setattr(here, "disabled", True)
        logger.warning("not wanted")
        inlet.read()
    assert [record.getMessage() for record in caplog.records] == ["wanted"]


async def test_who_has_handled_a_record_there_does_not_do_so_again(caplog, monkeypatch):
    """A module that is imported by both processes adds a handler to its logger in both."""
    child, handled = logging.getLogger("there.env"), []
    handler = logging.Handler()
    handler.emit = handled.append
    monkeypatch.setattr(logging.getLogger("there"), "handlers", [handler])
    with both_ends() as (_, inlet):
        sender = log_records._Sender()
        sender.attach(inlet.outlet.sock)
        sender.handle(child.makeRecord(child.name, logging.INFO, __file__, 1, "once", (), None))
        inlet.read()
    assert handled == []
    assert [record.getMessage() for record in caplog.records] == ["once"]


async def test_until_there_is_a_socket_warnings_are_written_to_standard_error(caplog, capsys):
    """As in a process that forks others, and has put the handlers aside for them."""
    logger, sender = logging.Logger("there.env"), log_records._Sender()
    logger.addHandler(sender)
    logger.warning("early")
    logger.info("too early")
    sender.tell_dropped()
    inlet = LogInlet()
    sender.attach(inlet.outlet.sock)
    logger.warning("now")
    inlet.read()
    inlet.close()
    inlet.outlet.sock.close()
    assert caplog.messages == ["now"]
    assert capsys.readouterr().err == "early\n"


async def test_level_names_are_those_of_whoever_has_given_them(caplog, monkeypatch):
    with both_ends() as (logger, inlet):
        logger.log(25, "named there")
        body = inlet._sock.recv(10**5)
        fields, handled = pickle.loads(body)
        log_records._handle({**fields, "levelname": "NOTICE"}, handled)
        monkeypatch.setitem(logging._levelToName, 25, "HERE")
        log_records._handle({**fields, "levelname": "NOTICE"}, handled)
    assert [record.levelname for record in caplog.records] == ["NOTICE", "HERE"]


async def test_sending_to_who_is_gone_is_no_error(capsys):
    with both_ends() as (logger, inlet):
        inlet.close()
        logger.info("into the void")
    assert capsys.readouterr().err == ""
    assert sys.exc_info() == (None, None, None)
