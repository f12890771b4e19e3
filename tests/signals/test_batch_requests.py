"""Requests for batches by memory, driven in one process."""

import threading

import numpy as np
import pytest

from aiosampler.signals.batch_requests import (
    ROOM,
    AnsweredEpisodes,
    Answerer,
    Asker,
    Request,
    RequestCells,
    answer_specs,
    episode_specs,
    record_specs,
)


@pytest.fixture
def cells():
    specs = record_specs(1), answer_specs(3), episode_specs(3)
    records, answers, episodes = (np.zeros(spec.shape, spec.dtype) for spec in specs)
    return RequestCells(records[0], answers, episodes)


@pytest.fixture
def asker(cells):
    return Asker(cells)


@pytest.fixture
def workers(cells, signal):
    workers = [Answerer(cells, i, signal) for i in range(3)]
    assert [worker.next() for worker in workers] == [None] * 3
    return workers


def test_workers_go_on_to_a_request_that_is_there_and_who_answers_last_tells(asker, workers, signal):
    assert asker.ask(Request(7, 0, 2)) == (1, [0, 1, 2])  # who needs a message
    assert workers[0].next() == Request(7, 0, 2)
    assert asker.ask(Request(8, 1, 0)) == (2, [1, 2])
    workers[0].answer(b"first")
    assert workers[0].next() == Request(8, 1, 0)  # which nobody else has come to
    workers[0].answer(b"")
    assert workers[0].next() is None
    assert signal.take() == 0
    for worker in workers[1:]:
        assert worker.next() == Request(7, 0, 2)
        worker.answer(b"other")
    assert signal.take() == 1
    assert [asker.complete(number) for number in (1, 2)] == [True, False]
    assert [asker.answer(1, i) for i in range(3)] == [b"first", b"other", b"other"]
    assert [asker.answer(2, i) for i in range(3)] == [b"", None, None]
    assert asker.ask(Request(9, 0, 0)) == (3, [0])


def test_what_there_is_no_room_for_comes_as_a_message(asker, workers):
    number, _ = asker.ask(Request(0, 0, 0))
    episodes = [b"x" * ROOM, None]
    for worker, packed in zip(workers[:2], episodes, strict=True):
        worker.next()
        worker.answer(packed)
    assert [asker.answer(number, i) for i in range(3)] == [episodes[0], None, None]
    workers[2].next()
    workers[2].answer(b"")
    assert not asker.complete(number)  # one of them must be waited for


def test_a_worker_that_is_lost_is_not_the_last_and_who_replaces_it_counts_on(asker, workers, cells, signal):
    number, _ = asker.ask(Request(0, 0, 0))
    for worker in workers:
        worker.next()
    workers[0].answer(b"")
    asker.lose(1)
    assert signal.take() == 0
    workers[2].answer(b"")
    assert signal.take() == 1
    other = Answerer(cells, 1, signal)
    assert other.next() is None  # the request that the one before it did not answer is not for it
    assert asker.ask(Request(1, 1, 0))[1] == [1]
    assert other.next() == Request(1, 1, 0)
    assert number == 1


def test_no_request_and_no_answer_is_missed(asker, workers, signal):
    """Workers sleep where there is no request, at any instant, and need a message then, as the asker sees."""
    messages = [threading.Semaphore(0) for _ in workers]
    n = 500

    def work(i):
        seen = []
        while len(seen) < n:
            request = workers[i].next()
            if request is None:
                messages[i].acquire()
            else:
                seen.append(request.itr)
                workers[i].answer(b"%d" % request.itr)
        assert seen == list(range(n))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for k in range(n):
        number, asleep = asker.ask(Request(k, k % 2, 0))
        for i in asleep:
            messages[i].release()
        while [asker.answer(number, i) for i in range(3)] != [b"%d" % k] * 3:
            signal.wait(10)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_another_process_reads_the_episodes_of_a_request_that_all_have_answered(asker, workers, cells):
    others = AnsweredEpisodes(cells.answers, cells.episodes)
    for number in (1, 2):
        assert asker.ask(Request(0, 0, 0))[0] == number
        for i, worker in enumerate(workers):
            worker.next()
            worker.answer(b"x" * (i + number))
    assert [others.of(number) for number in (1, 2)] == [[b"x", b"xx", b"xxx"], [b"xx", b"xxx", b"xxxx"]]
