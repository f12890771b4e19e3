"""A headless Chromium, driven by its own protocol over a WebSocket: nothing but the browser needs to be installed."""

import asyncio
import base64
import contextlib
import json
import shutil

import websockets

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One page of a browser."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    async def command(self, method, **parameters):
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(await self._socket.recv())).get("id") != self._number:
            pass  # events of the page
        assert "error" not in answer, answer
        return answer["result"]

    async def js(self, expression):
        """The value of an expression in the page."""
        result = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression, timeout=30.0):
        """Wait until an expression is true, and no error; what the page shows is in that of the end."""
        attempt = f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"
        try:
            async with asyncio.timeout(timeout):
                while not (value := await self.js(attempt)):  # noqa: ASYNC110 - the browser changes it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{expression} is not so of: {await self.js('document.body.innerText')}") from None
        return value

    async def screenshot(self, path):
        path.write_bytes(base64.b64decode((await self.command("Page.captureScreenshot"))["data"]))


@contextlib.asynccontextmanager
async def opened(url, folder):
    """Open a page in a new browser, whose files are in `folder`."""
    command = [COMMAND, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,900"]
    command += ["--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={folder}", url]
    quiet = asyncio.subprocess.DEVNULL
    browser = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(60):
            told = folder / "DevToolsActivePort"  # which the browser writes when it listens
            while not told.exists() or "\n" not in told.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            port, path = told.read_text().split()
            async with websockets.connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as socket:
                targets = (await Page(socket).command("Target.getTargets"))["targetInfos"]
            target = next(each["targetId"] for each in targets if each["type"] == "page")
        address = f"ws://127.0.0.1:{port}/devtools/page/{target}"
        async with websockets.connect(address, proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            browser.kill()
        await browser.wait()
