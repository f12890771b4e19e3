"""The page of the service, in a real browser."""

import os
import signal

import pytest

pytest.importorskip("fastapi")
chromium = pytest.importorskip("tests.support.chromium")
pytestmark = [
    pytest.mark.slow,  # a browser and a server
    pytest.mark.skipif(chromium.COMMAND is None, reason="there is no Chromium here: apt-get install chromium"),
]


async def test_the_page_starts_a_run_draws_it_and_tells_what_happens_to_it(service, tmp_path):
    async with chromium.opened(service.url, tmp_path / "profile") as page:
        await page.until("document.querySelector('#state').textContent == 'idle'")
        await page.until("document.querySelector('[name=sampler]').options.length == 5")
        await page.js("document.forms[0].n_workers.value = 3; document.forms[0].sampler.value = 'alternating'")
        await page.js("document.querySelector('#start').click()")
        await page.until("document.querySelector('#message').textContent.includes('n_workers')")  # in two groups
        await page.js("document.forms[0].n_workers.value = 2; document.forms[0].sampler.value = 'cpu'")
        await page.js("document.querySelector('#start').click()")
        await page.until("document.querySelector('#state').textContent == 'running'")
        for chart in ("return", "steps_per_second", "policy_lag"):
            await page.until(f"document.querySelector('#{chart} .first').getAttribute('d').includes('L')")
        await page.until("document.querySelectorAll('#shares i').length == 2")
        pids = "[...document.querySelectorAll('#workers tr')].map(row => +row.cells[1].textContent)"
        first, second = await page.js(pids)
        os.kill(second, signal.SIGKILL)
        await page.until("document.querySelectorAll('#workers tr')[1].cells[4].textContent == '1'")
        await page.until("document.querySelectorAll('#workers tr')[1].cells[5].textContent.includes('SIGKILL')")
        assert (await page.js(pids))[0] == first
        os.kill(service.look()["sampler_pid"], signal.SIGKILL)
        await page.until("document.querySelector('#state').textContent == 'failed'")
        await page.until("document.querySelector('#message').textContent.includes('WorkerDied')")
        service.end()
        await page.until("document.querySelector('#state').textContent == 'disconnected'")
