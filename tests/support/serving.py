"""The service as a user runs it: uvicorn in a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


class Service:
    """A server, and what one asks it."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        self.url = self.address()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def address(self):
        """Where it listens, which it logs when it does."""
        return self.logged(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")[-1]

    def logged(self, pattern, times=1):
        """All matches of a pattern in its log, as soon as there are so many."""
        until = time.monotonic() + 60
        while len(found := re.findall(pattern, self.log.read_text())) < times:
            assert time.monotonic() < until, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return found

    def look(self):
        return self.client.get("/run").json()

    def until(self, condition, timeout=60):
        """The first look that fulfils a condition."""
        until = time.monotonic() + timeout
        while not condition(look := self.look()):
            assert time.monotonic() < until, look
            time.sleep(0.05)
        return look

    def start(self, **settings):
        """Start a run; the look of when the first batches are there."""
        self.client.delete("/run")
        answer = self.client.post("/run", json={"batch_T": 8, "batch_B": 4, "n_workers": 2, **settings})
        assert answer.status_code == 202, answer.text
        look = self.until(lambda look: look["state"] == "failed" or look["batches"] > 1)
        assert look["state"] == "running", look
        return look

    def end(self):
        """End the server and all in its process group, as a job's end does; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def serving(folder, *arguments):
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "service.app:app", "--port=0"]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--timeout-graceful-shutdown=5", *arguments],
            cwd=folder,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        service = Service(process, log)
        yield service
        service.client.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
