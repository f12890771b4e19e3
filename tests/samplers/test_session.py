"""The state machine of requests and answers, with a sampler process in memory."""

import asyncio

import pytest

from aiosampler import ConfigError, SamplerClosed, SamplerError, WorkerError
from aiosampler.samplers.session import Session
from aiosampler.samplers.state import State
from aiosampler.samplers.statistics import Counters
from aiosampler.workers.messages import Ask, Batch, Call, Called, Collect, Evaluate, Evaluated


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}


class FakeProcess:
    """Notes the requests, and answers when the test says so."""

    pid = 1

    def __init__(self):
        self.requests, self.answers, self.stopped = [], asyncio.Queue(), 0
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.phase, self.report = "starting", None
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def send(self, message):
        await self.may_send.wait()
        self.requests.append(message)

    def notify(self, on_change):
        self.on_change = on_change

    def failing(self):
        return any(isinstance(answer, Exception) for answer in self.answers._queue)

    def fail_by_itself(self, error):
        self.answer(error)
        self.on_change()

    async def receive(self, timeout=None, reading=None):
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, message):
        self.answers.put_nowait(message)

    async def stop(self, grace):
        self.stopped += 1
        self.answer(SamplerError("the process was stopped"))
        await self.may_stop.wait()
        return self.report

    def abandon(self):
        self.stopped += 1


class FakeMemory:
    """Notes what it is told."""

    def __init__(self):
        self.told, self.aborts = [], []

    def take_back(self):
        self.told.append("take back")

    def reading(self):
        return None

    def abort_evaluation(self, wanted):
        self.aborts.append(wanted)

    def abort_all(self):
        self.told.append("abort")

    def release(self):
        self.told.append("release")

    def unmap(self):
        self.told.append("unmap")


def batch(itr, slot=None):
    return Batch(itr, itr % 2 if slot is None else slot, 0, [], 1.0)


EVALUATED = Evaluated([])


async def started(*, overlap=True):
    """A session that runs, and the process and the memory that it has."""
    session = Session(overlap=overlap, step_timeout=None, counters=Counters(), log=lambda what: None)
    process, memory = FakeProcess(), FakeMemory()
    async with session.phase(State.NEW, State.PROBING, State.PROBED, "once"):
        session.process = process
        process.answer("found")
        assert await session.ask_start("probe", None) == "found"
        session.memory = memory
    async with session.phase(State.PROBED, State.STARTING, State.RUNNING, "then"):
        process.answer("started")
        await session.ask_start("start", None)
    assert process.phase == "ready"
    process.requests.clear()
    return session, process, memory


async def waiting(coroutine):
    """A task that waits for its answer."""
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_numbers_and_slots_alternate():
    session, process, memory = await started()
    for itr in range(3):
        process.answer(batch(itr))
        assert await session.collect(None, None) == batch(itr)
    assert process.requests == [Collect(0, 0), Collect(1, 1), Collect(2, 0)]
    assert memory.told == ["take back"] * 3


async def test_answers_are_received_in_the_order_of_their_requests():
    session, process, _ = await started()
    tasks = [await waiting(session.collect(None, None)), await waiting(session.evaluate(None))]
    tasks.append(await waiting(session.collect(None, None)))
    assert process.requests == [Collect(0, 0)]  # the others wait for their turn
    for answer in (batch(0), EVALUATED, batch(1)):
        process.answer(answer)
    assert await asyncio.gather(*tasks) == [batch(0), EVALUATED, batch(1)]
    assert process.requests == [Collect(0, 0), Evaluate(0), Collect(1, 1)]


async def test_a_batch_whose_caller_was_cancelled_is_what_the_next_call_gets():
    session, process, memory = await started()
    await cancel(await waiting(session.collect(None, None)))
    with pytest.raises(ConfigError, match="itr=1, but the batch with itr=0"):
        await session.collect(1, None)
    process.answer(batch(0))
    assert await session.collect(0, 0) == batch(0)
    assert process.requests == [Collect(0, 0)]
    assert memory.told == ["take back"]


async def test_a_batch_that_arrives_before_an_evaluation_is_kept_for_the_next_call():
    session, process, _memory = await started()
    await cancel(await waiting(session.collect(None, None)))
    process.answer(batch(0))
    process.answer(EVALUATED)
    assert await session.evaluate(7) == EVALUATED
    assert await session.collect(None, None) == batch(0)  # nothing is sent, nothing is waited for
    assert process.requests == [Collect(0, 0), Evaluate(7)]


async def test_an_evaluation_whose_caller_was_cancelled_is_given_up_and_its_answer_dropped():
    session, process, memory = await started()
    await cancel(await waiting(session.evaluate(None)))
    assert memory.aborts == [False, True]
    process.answer(EVALUATED)
    process.answer(batch(0))
    assert await session.collect(None, None) == batch(0)
    process.answer(EVALUATED)
    await session.evaluate(None)
    assert memory.aborts == [False, True, False]


async def test_a_call_whose_caller_was_cancelled_is_made_and_its_answer_dropped():
    session, process, _ = await started()
    calls = [Call(Ask.CALL, name, (b"",), (0,), False) for name in ("first", "second")]
    await cancel(await waiting(session.collect(None, None)))
    process.answer(batch(0))
    await cancel(await waiting(session.call(calls[0])))
    process.answer(Called({0: b"first"}, {}))
    second = await waiting(session.call(calls[1]))
    process.answer(Called({0: b"second"}, {}))
    assert await second == Called({0: b"second"}, {})
    assert await session.collect(None, None) == batch(0)
    assert process.requests == [Collect(0, 0), *calls]


async def test_a_batch_is_asked_for_once_a_large_call_has_left_whose_caller_was_cancelled():
    session, process, _ = await started()
    call = Call(Ask.CALL, "large", (b"",), (0,), False)
    process.may_send.clear()
    await cancel(await waiting(session.call(call)))
    await cancel(await waiting(session.collect(None, None)))
    process.may_send.set()
    collecting = await waiting(session.collect(None, None))
    assert process.requests == [call, Collect(0, 0)]
    process.answer(Called({0: b""}, {}))
    process.answer(batch(0))
    assert await collecting == batch(0)


async def test_closing_while_a_large_call_leaves():
    session, process, _ = await started()
    process.may_send.clear()
    calling = await waiting(session.call(Call(Ask.CALL, "large", (b"",), (0,), False)))
    await session.aclose()
    with pytest.raises(SamplerClosed):
        await calling


async def test_with_overlap_the_next_batch_is_settled_and_without_it_is_free():
    session, process, _ = await started()
    process.answer(batch(4, 1))
    await session.collect(4, 1)
    with pytest.raises(ConfigError, match="db_idx=1, but the batch with db_idx=0"):
        await session.collect(None, 1)
    session, process, _ = await started(overlap=False)
    for itr, slot in ((4, 1), (9, 1)):
        process.answer(batch(itr, slot))
        await session.collect(itr, slot)
    assert process.requests == [Collect(4, 1), Collect(9, 1)]
    with pytest.raises(ConfigError, match="db_idx must be 0 or 1"):
        await session.collect(None, 2)


async def test_a_failure_closes_the_session_before_it_is_raised():
    session, process, memory = await started()
    process.answer(WorkerError("environment 1 failed"))
    with pytest.raises(WorkerError, match="environment 1 failed"):
        await session.collect(None, None)
    assert (process.stopped, memory.told[-3:]) == (1, ["abort", "release", "unmap"])
    assert session.process is None
    assert not session.ended_as_asked
    for call in (session.collect(None, None), session.evaluate(None)):
        with pytest.raises(SamplerClosed, match="closed by: environment 1 failed") as caught:
            await call
        assert isinstance(caught.value.__cause__, WorkerError)
    await session.aclose()
    assert process.stopped == 1


async def test_closing_while_calls_wait():
    session, _process, _ = await started()
    first, second = await waiting(session.collect(None, None)), await waiting(session.evaluate(None))
    await session.aclose()
    for task in (first, second):
        with pytest.raises(SamplerClosed):
            await task
    assert session.failure is None
    assert session.ended_as_asked


async def test_closing_goes_on_to_its_end_where_its_caller_is_cancelled():
    session, process, memory = await started()
    process.may_stop.clear()
    closing = await waiting(session.aclose())
    closing.cancel()
    also = await waiting(session.aclose())
    assert not closing.done()
    process.may_stop.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await also
    assert (process.stopped, memory.told) == (1, ["abort", "release", "unmap"])


async def test_what_the_process_reports_last_is_raised_once_the_rest_is_done():
    session, process, memory = await started()
    process.report = WorkerError("the door is stuck")
    with pytest.raises(WorkerError, match="the door is stuck"):
        await session.aclose()
    assert memory.told[-2:] == ["release", "unmap"]


async def test_a_start_that_fails_or_is_cancelled_closes_the_session():
    session = Session(overlap=True, step_timeout=None, counters=Counters(), log=lambda what: None)
    process = session.process = FakeProcess()

    async def start():
        async with session.phase(State.NEW, State.PROBING, State.PROBED, "once"):
            await session.ask_start("probe", None)

    await cancel(await waiting(start()))
    assert (process.stopped, session.state) == (1, State.CLOSED)
    with pytest.raises(SamplerClosed):
        await start()


async def test_calls_out_of_order_are_refused():
    session = Session(overlap=True, step_timeout=None, counters=Counters(), log=lambda what: None)
    with pytest.raises(SamplerClosed, match="not started"):
        await session.collect(None, None)
    with pytest.raises(SamplerError, match="this follows that"):
        async with session.phase(State.PROBED, State.STARTING, State.RUNNING, "this follows that"):
            pass
    assert session.state is State.NEW
    await session.aclose()
    with pytest.raises(SamplerClosed):
        async with session.phase(State.NEW, State.PROBING, State.PROBED, "once"):
            pass


def test_a_session_whose_loop_is_gone_abandons_its_process():
    session, process, _ = asyncio.run(started())
    asyncio.run(session.aclose())
    assert process.stopped == 1
    assert session.state is State.CLOSED


async def test_a_failure_while_no_call_waits_closes_the_session_and_is_told_to_the_next_call():
    session, process, memory = await started()
    watching = await waiting(session.wait_closed())
    error = WorkerError("by itself", process="sampler")
    process.fail_by_itself(error)
    with pytest.raises(WorkerError) as caught:
        await watching
    assert caught.value is error
    assert process.stopped == 1
    assert memory.told == ["abort", "release", "unmap"]
    with pytest.raises(WorkerError) as caught:
        await session.collect(None, None)
    assert caught.value is error
    with pytest.raises(SamplerClosed, match="by itself"):
        session.require_running()
    await session.aclose()


async def test_a_failure_that_nobody_has_heard_of_is_told_by_closing():
    session, process, _ = await started()
    process.fail_by_itself(WorkerError("by itself", process="sampler"))
    await asyncio.sleep(0)
    with pytest.raises(WorkerError, match="by itself"):
        await session.aclose()
    await session.aclose()


async def test_a_failure_that_arrives_behind_a_batch_whose_caller_left():
    session, process, _ = await started()
    await cancel(await waiting(session.collect(None, None)))
    process.answer(batch(0))
    process.fail_by_itself(WorkerError("by itself", process="sampler"))
    with pytest.raises(WorkerError, match="by itself"):
        await session.wait_closed()


async def test_a_failure_that_a_call_waits_for_is_met_by_it_alone():
    session, process, _ = await started()
    call = await waiting(session.collect(None, None))
    process.fail_by_itself(WorkerError("at once", process="sampler"))
    with pytest.raises(WorkerError, match="at once"):
        await call
    with pytest.raises(SamplerClosed, match="at once"):
        await session.collect(None, None)
    await session.aclose()
