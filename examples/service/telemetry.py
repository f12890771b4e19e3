"""What the page shows and Prometheus scrapes: read from a run's own counters a few times a second."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aiosampler import ProcessFailure, SamplerStatistics, Timeline
from service.latest import Latest

if TYPE_CHECKING:
    from service.control import Control

log = logging.getLogger("uvicorn.error")

PERIOD_S = 0.2
MOST_POINTS = 600  # of the curves; then every other one is dropped, and they are drawn half as often from there on
LATE_S = 5.0  # without a batch, which the page says
IDLE: dict[str, Any] = {"state": "idle", "message": "", "settings": None, "workers": [], "shares": {}, "point": None}


class Telemetry:
    """Looks at the current run, and tells everybody who reads `latest`.

    Attributes:
        latest: The newest look, as JSON; a `number` grows with each.
        history: Points of the curves since the run was started, each as JSON, so that a reader who comes costs no time.
    """

    def __init__(self, control: "Control") -> None:
        self._control = control
        self.look: dict[str, Any] = IDLE
        self.latest = Latest(json.dumps(IDLE))
        self.history: list[str] = []
        self._of: object = None  # the run that the history is of
        self._began, self._every, self._skipped = 0.0, 1, 0

    async def watch(self) -> None:
        """Look at the run until cancelled."""
        while True:
            try:
                self.refresh()
            except Exception:  # what cannot be shown is no reason to end what is being trained
                log.exception("the run cannot be looked at")
            await asyncio.sleep(PERIOD_S)

    def refresh(self) -> None:
        """Look at the run now; nobody is woken if all is as it was."""
        look = self._look()
        if look != self.look:
            self.look = look
            self.latest.set(json.dumps(look))

    def _look(self) -> dict[str, Any]:
        run = self._control.run
        if run is None:
            return IDLE
        statistics = run.statistics()
        before = self.look["point"]
        if run is not self._of:
            before = None
            self._of, self._every, self._skipped = run, 1, 0
            self._began = time.monotonic()
            self.history.clear()
        waits = time.monotonic() - run.batch_at
        message = run.message
        if run.state == "running" and waits > LATE_S:
            message = f"no batch for {waits:.0f} s: an environment, or an evaluation, takes its time"
        counted = statistics.as_dict()
        return {
            **counted,
            "failures": counted["failures"][-3:],  # there may be thousands
            "state": run.state,
            "message": message,
            "settings": run.settings.model_dump(),
            "workers": worker_health(statistics, run.timeline),
            "shares": stage_shares(run.timeline),
            "point": self._point(counted, run.loss) if run.state == "running" else before,
        }

    def _point(self, counted: dict[str, Any], loss: float | None) -> dict[str, Any]:
        point = {
            "seconds": round(time.monotonic() - self._began, 2),
            "return": counted["mean_return"],
            "eval_return": counted["eval_return"],
            "steps_per_second": counted["steps_per_second"],
            "policy_lag": counted["policy_lag"],
            "loss": loss if loss is not None and np.isfinite(loss) else None,
        }
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self.history.append(json.dumps(point))
        if len(self.history) >= MOST_POINTS:
            del self.history[::2]
            self._every *= 2
        return point


def stage_shares(timeline: Timeline | None) -> dict[str, float]:
    """Which share of a batch's time went to what: of the pipelines of an action server, or of workers with agents."""
    if timeline is None or not timeline.steps.size:
        return {}
    seconds = {name: float(span.sum()) for name, span in timeline.stage_seconds().items() if name != "loop"}
    if "wait" in seconds:  # of a group, until its last worker has stepped; the workers of one step side by side
        seconds["step"] = seconds.pop("wait")
    whole = sum(seconds.values())
    return {name: round(each / whole, 3) for name, each in seconds.items()} if whole else {}


def worker_health(statistics: SamplerStatistics, timeline: Timeline | None) -> list[dict[str, Any]]:
    """A dict for each worker: rank, process id, how busy it was in the newest batch, how often replaced, and why."""
    workers = []
    for rank, pid in enumerate(statistics.worker_pids):
        failures = [each for each in statistics.failures if isinstance(each, ProcessFailure) and each.rank == rank]
        health = "replaced now" if pid is None else "slowest" if rank == statistics.slowest_worker else "ok"
        workers.append(
            {
                "rank": rank,
                "pid": pid,
                "health": health if statistics.state == "running" else statistics.state,
                "busy": None if timeline is None else _busy(timeline, rank),
                "lost": len(failures),
                "last_failure": str(failures[-1]) if failures else "",
            }
        )
    return workers


def _busy(timeline: Timeline, rank: int) -> float | None:
    if rank >= len(timeline.steps):
        return None
    begin, end = timeline.steps[rank, :, 0], timeline.steps[rank, :, 1]
    stepped = begin > 0
    if not stepped.any():
        return None
    span = end.max() - begin[stepped].min()
    return round(float((end - begin)[stepped].sum() / span), 3) if span else None


class Metrics(Collector):
    """The same for Prometheus, made when it is asked for."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        """The families of metrics."""
        look = self._telemetry.look
        yield GaugeMetricFamily("aiosampler_up", "1 while a sampler runs", value=look["state"] == "running")
        for name, help_text in (
            ("env_steps", "Steps of environments in batches"),
            ("batches", "Batches that were obtained"),
            ("episodes", "Episodes that ended"),
            ("lost_steps", "Steps that were lost with a worker"),
            ("restarts", "Workers that were replaced"),
        ):
            if name in look:
                yield CounterMetricFamily(f"aiosampler_{name}", help_text, value=look[name])
        for name, help_text in (
            ("steps_per_second", "Steps per second over the last batches"),
            ("mean_return", "Mean return of the last 100 episodes"),
            ("eval_return", "Mean return of the last evaluation"),
            ("policy_lag", "Versions that the last batch was behind"),
        ):
            if look.get(name) is not None:
                yield GaugeMetricFamily(f"aiosampler_{name}", help_text, value=look[name])
        shares = GaugeMetricFamily("aiosampler_stage_share", "Share of a batch's time", labels=["stage"])
        for stage, share in look["shares"].items():
            shares.add_metric([stage], share)
        busy = GaugeMetricFamily("aiosampler_worker_busy", "Share of a batch that a worker stepped", labels=["rank"])
        for worker in look["workers"]:
            if worker["busy"] is not None:
                busy.add_metric([str(worker["rank"])], worker["busy"])
        yield from (shares, busy)
