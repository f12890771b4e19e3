"""The service starts, changes, watches and ends runs, and outlives what happens to them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
httpx = pytest.importorskip("httpx")
client = pytest.importorskip("websockets.sync.client")
pytestmark = pytest.mark.slow  # each starts samplers in a server of its own process


def live(service, **options):
    return client.connect(service.url.replace("http", "ws") + "/live", proxy=None, **options)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_T": 0}, "batch_T: Input should be greater than or equal to 1, got '0'"),
        ({"world": "os:system"}, "world: Input should be 'CartPole-v1', "),
        ({"agent": "__import__"}, "agent: Input should be 'actor-critic' or 'random'"),
        ({"env_fn": "x"}, "env_fn: Extra inputs are not permitted"),
        ({"sampler": "serial", "n_workers": 2}, "n_workers=2"),
        ({"sampler": "alternating", "n_workers": 3}, "n_workers"),
        (b"not json", "JSON"),
        (b"[1]", "the body: "),
    ],
)
def test_wrong_values_are_refused_in_a_sentence_before_anything_starts(service, settings, says):
    body = {"content": settings} if isinstance(settings, bytes) else {"json": settings}
    answer = service.client.post("/run", headers={"content-type": "application/json"}, **body)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert service.look()["state"] in ("idle", "stopped")
    assert "Traceback" not in service.log.read_text()


def test_who_comes_by_another_name_or_from_another_page_is_refused(service):
    assert service.client.get("/run", headers={"host": "evil.example"}).status_code == 400
    with pytest.raises(Exception, match="403"):
        live(service, origin="http://evil.example").close()
    for origin in ("http://evil.example", "null"):
        for method in ("POST", "PATCH", "DELETE"):
            refused = service.client.request(method, "/run", json={}, headers={"origin": origin})
            assert (refused.status_code, service.look()["state"] in ("idle", "stopped")) == (403, True)
    with live(service, origin=service.url) as reader:
        assert "history" in json.loads(reader.recv(10))


def test_what_nothing_runs_for_is_refused(service):
    service.client.delete("/run")
    for answer in (service.client.patch("/run", json={"batch_T": 4}), service.client.post("/evaluation", json={})):
        assert answer.status_code == 409
    assert service.client.delete("/run").status_code == 200


def test_a_run_is_watched_changed_evaluated_and_ended(service):
    look = service.start(seed=1)
    again = service.client.post("/run", json={})
    assert again.status_code == 409
    assert "a run is running already" in again.json()["detail"]
    with live(service) as reader:
        assert set(json.loads(reader.recv(10))) == {"history"}
        while not (seen := json.loads(reader.recv(10)))["shares"]:
            pass
    assert seen["shares"].keys() == {"step", "act"}
    assert [worker["pid"] for worker in seen["workers"]] == look["worker_pids"]

    service.client.patch("/run", json={"learning_rate": 1e-4})
    same = service.look()
    assert (same["sampler_pid"], same["settings"]["learning_rate"]) == (look["sampler_pid"], 1e-4)
    refused = service.client.patch("/run", json={"sampler": "alternating", "n_workers": 3})
    assert refused.status_code == 422
    assert service.look()["sampler_pid"] == look["sampler_pid"]
    version = service.until(lambda look: look["policy_version"] > 50)["policy_version"]
    assert service.client.patch("/run", json={"sampler": "gpu"}).status_code == 202
    changed = service.until(lambda look: look["state"] == "running" and look["shares"])
    assert changed["sampler_pid"] != look["sampler_pid"]
    assert changed["policy_version"] >= version  # it goes on with what was learned
    assert {"step", "infer"} <= changed["shares"].keys()

    evaluation = service.client.post("/evaluation", json={"episodes": 4}).json()
    assert (evaluation["episodes"], evaluation["cut"], len(evaluation["returns"])) == (4, 0, 4)
    text = service.client.get("/metrics").text
    assert float(re.search(r"^aiosampler_env_steps_total (\S+)", text, re.MULTILINE)[1]) > 0
    assert 'aiosampler_stage_share{stage="infer"}' in text
    ended = service.client.delete("/run").json()
    assert ended["state"] == "stopped"
    assert not any(map(psutil.pid_exists, filter(None, changed["worker_pids"])))


def test_a_client_that_leaves_cancels_its_evaluation(service):
    service.start(agent="random", world="Acrobot-v1")
    with pytest.raises(httpx.ReadTimeout):
        service.client.post("/evaluation", json={"episodes": 1000}, timeout=0.3)
    until = time.monotonic() + 20
    while (answer := service.client.post("/evaluation", json={"episodes": 1})).status_code == 409:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert answer.json()["episodes"] == 1


def test_readers_of_all_kinds_cost_the_sampler_nothing(service):
    service.start(agent="random")
    port = int(service.url.rsplit(":", 1)[1])
    asks = (
        f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    silent = []
    for k in range(10):  # connect, and never read; every other one then vanishes
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        reader.connect(("127.0.0.1", port))
        reader.sendall(asks.encode())
        reader.close() if k % 2 else silent.append(reader)
    numbers = []

    def read():
        with live(service) as reader:
            looks = [json.loads(reader.recv(20)) for _ in range(6)][1:]
            numbers.append([look["batches"] for look in looks])

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(numbers) == 10
    assert all(seen == sorted(seen) and seen[-1] > seen[0] for seen in numbers)
    for reader in silent:
        reader.close()
    before = service.look()["batches"]
    service.until(lambda look: look["batches"] > before)
    assert "Traceback" not in service.log.read_text()


def test_a_worker_that_dies_is_replaced_and_told(service):
    look = service.start()
    os.kill(look["worker_pids"][1], signal.SIGKILL)
    told = service.until(lambda look: look["restarts"] == 1 and all(look["worker_pids"]))
    assert [worker["lost"] for worker in told["workers"]] == [0, 1]
    assert "SIGKILL" in told["workers"][1]["last_failure"]
    service.until(lambda look: look["batches"] > told["batches"] + 2)
    assert "nan" not in service.client.get("/run").text.lower()


def test_a_sampler_that_fails_is_told_and_the_next_run_starts(service):
    look = service.start()
    os.kill(look["sampler_pid"], signal.SIGKILL)
    failed = service.until(lambda look: look["state"] == "failed")
    assert failed["message"].startswith("WorkerDied: ")
    assert "aiosampler_up 0.0" in service.client.get("/metrics").text
    assert service.start()["state"] == "running"


def test_the_lag_of_the_loop_is_measured(service):
    service.client.delete("/run")
    command = [sys.executable, str(ROOT / "examples/service/loop_lag.py"), "--seconds=0.5", f"--url={service.url}"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    assert len(re.findall(r"^(?:idle|sampling): \d+ pings: median .* ms$", printed, re.MULTILINE)) == 2
    print(printed)
