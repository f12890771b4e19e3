"""The service ends cleanly, with all that it started, and is loaded anew."""

import os
import signal

import psutil
import pytest

client = pytest.importorskip("websockets.sync.client")
pytest.importorskip("fastapi")
serving = pytest.importorskip("tests.support.serving").serving
pytestmark = pytest.mark.slow  # each is a server of its own


def descendants(pid):
    return psutil.Process(pid).children(recursive=True)


def test_a_job_that_is_terminated_leaves_nothing(tmp_path):
    with serving(tmp_path) as service:
        service.start()
        with client.connect(service.url.replace("http", "ws") + "/live", proxy=None) as reader:
            reader.recv(10)
            below = descendants(service.process.pid)
            assert service.end() in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
    _, left = psutil.wait_procs(below, 20)
    assert not left


def test_a_reload_ends_the_run_and_the_next_one_starts(tmp_path):
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "code.py").write_text("")
    with serving(tmp_path, "--reload", f"--reload-dir={watched}") as service:
        service.logged("Application startup complete")
        sampler = psutil.Process(service.start()["sampler_pid"])
        (watched / "code.py").write_text("changed = True")
        os.utime(watched / "code.py", (0, 2**31))
        service.logged("Application startup complete", times=2)
        assert psutil.wait_procs([sampler], 20)[1] == []
        assert service.look()["state"] == "idle"
        assert service.start()["state"] == "running"
        below = descendants(service.process.pid)
    _, left = psutil.wait_procs(below, 20)
    assert not left
