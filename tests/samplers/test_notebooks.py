"""Cells of a notebook, which are run again and interrupted."""

import ast
import asyncio
import contextlib
import gc
import inspect

import pytest

from tests.support.processes import our_children, until
from tests.support.samplers import small
from tests.support.worlds import Unhurried

pytestmark = pytest.mark.usefixtures("no_leaks")


class Notebook:
    """Runs cells in one namespace, with `await` at their top level, and keeps the last error, as interpreters do."""

    def __init__(self):
        self.names = {"small": small, "Unhurried": Unhurried}
        self.error = None

    async def run(self, cell):
        try:
            code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, self.names)
            if inspect.iscoroutine(result):
                await result
        except BaseException as exc:
            self.error = exc
            raise

    async def interrupt(self, cell):
        """Run a cell until it waits for the sampler, and interrupt it as Jupyter does."""
        running = asyncio.create_task(self.run(cell))
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert isinstance(self.error, asyncio.CancelledError)


@pytest.fixture
def notebook():
    gc.disable()  # what is dropped is to end at once
    try:
        yield Notebook()
    finally:
        gc.enable()


START = """
sampler = small("serial", Unhurried, batch_T=1000, eval_n_envs=1, eval_max_steps=10**6)
await sampler.async_initialize()
await sampler.initialize()
"""


@pytest.mark.parametrize(
    "cell",
    [
        "pass",
        "samples = await sampler.obtain_samples()",
        "async for samples in sampler: pass",
        "await sampler.evaluate_agent()",
        "await sampler.wait_closed()",
        "await sampler.call('linger')",
    ],
)
async def test_a_cell_that_is_run_again_ends_the_sampler_of_the_first_run(notebook, cell):
    await notebook.run(START)
    if cell != "pass":
        await notebook.interrupt(cell)
    with pytest.warns(ResourceWarning, match="was not closed"):
        await notebook.run(START)
    await until(lambda: len(our_children()) == 1)
    await notebook.run("await sampler.aclose()")


async def test_an_interrupted_block_closes_its_sampler(notebook):
    block = "async with small('serial', Unhurried, batch_T=1000) as sampler:\n  async for _ in sampler:\n    pass"
    await notebook.interrupt(block)
    assert our_children() == []
    with pytest.raises(ZeroDivisionError):
        await notebook.run("async with small('serial') as sampler:\n  1 / 0")
    assert our_children() == []
