"""What this process measures, in Prometheus' terms; names follow those of vLLM."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.edits import EditState
from contracts.generation import EndEvent, GenerateEvent, StartEvent, TokenEvent
from contracts.versions import AliasRecord, Version
from contracts.workers import WorkerStatus

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUALITY = {
    "success": "Share of its edit's facts that a greedy answer gives.",
    "efficacy": "Share of its edit's facts with p(new) > p(true).",
    "paraphrase": "The same on their paraphrase prompts.",
    "specificity": "Share of their neighborhood prompts with p(true) > p(new).",
    "chat_success": "Share of its edit's facts that are known in a chat.",
    "perplexity_ratio": "Perplexity on the control text over the base's.",
    "kl": "KL from the base on the control text, in nats per token.",
    "live_success": "Share of its live facts that a greedy answer gives.",
}
_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)


class Metrics:
    """Every instrument of one process, in a collector registry of its own."""

    def __init__(self) -> None:
        self.collectors = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.http = Histogram(
            "memit_http_request_duration_seconds",
            "From the request to the first byte of the answer.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "memit_time_to_first_token_seconds",
            "From the request to its first text.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.between_tokens = Histogram(
            "memit_inter_token_latency_seconds",
            "Between two pieces of text of one answer.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "memit_e2e_request_latency_seconds",
            "From the request to the end of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.success = Counter(
            "memit_request_success",
            "Generations that came to their end.",
            ["finished_reason"],
            registry=registry,
        )
        self.webhooks = Counter(
            "memit_webhook_attempts",
            "Attempts to deliver an event.",
            ["state"],
            registry=registry,
        )
        self.redis_up = Gauge("memit_redis_up", "Redis answers.", registry=registry)
        self.workers = Gauge("memit_workers", "Live workers.", ["ready"], registry=registry)
        self.running = Gauge(
            "memit_num_requests_running", "Generations in engines' batches.", registry=registry
        )
        self.waiting = Gauge(
            "memit_num_requests_waiting", "Generations not yet in a batch.", registry=registry
        )
        self.jobs = Gauge("memit_edit_queue_depth", "Edit jobs waiting in RQ.", registry=registry)
        self.edits = Gauge("memit_edits", "Edits by state.", ["state"], registry=registry)
        self.epoch = Gauge("memit_active_epoch", "Epoch of the alias active.", registry=registry)
        self.active = Gauge(
            "memit_active_version_info", "The versions that active names.", ["version"],
            registry=registry,
        )  # fmt: skip
        self.quality = {
            name: Gauge(f"memit_version_{name}", f"Active version: {text}", ["version"],
                        registry=registry)
            for name, text in _QUALITY.items()
        }  # fmt: skip
        self.rss = Gauge(
            "memit_worker_rss_bytes", "Resident memory.", ["worker"], registry=registry
        )

    def set_workers(self, found: list[WorkerStatus], queued: int, jobs: int) -> None:
        """Set the gauges that Redis knows; `queued` generations and `jobs` have no worker yet."""
        ready = sum(status.ready for status in found)
        self.redis_up.set(1)
        self.workers.labels(ready="true").set(ready)
        self.workers.labels(ready="false").set(len(found) - ready)
        self.running.set(sum(status.running for status in found))
        self.waiting.set(queued + sum(status.waiting for status in found))
        self.jobs.set(jobs)
        self.rss.clear()
        for status in found:
            self.rss.labels(worker=status.id).set(status.rss_bytes)

    def set_redis_down(self) -> None:
        """Redis does not answer: nothing is known of the workers."""
        self.redis_up.set(0)
        self.workers.labels(ready="true").set(0)
        self.workers.labels(ready="false").set(0)
        self.rss.clear()

    def set_registry(self, states: dict[EditState, int], active: AliasRecord | None) -> None:
        """Set the gauges that the registry knows."""
        for state in EditState:
            self.edits.labels(state=state.value).set(states.get(state, 0))
        self.active.clear()
        if active is not None:
            for version in active.versions:
                self.active.labels(version=version).set(1)
            self.epoch.set(active.epoch)

    def set_versions(self, versions: Iterable[Version]) -> None:
        """Set the gauges of the active versions' quality, as far as it was measured."""
        for gauge in self.quality.values():
            gauge.clear()
        for version in versions:
            self._set_quality(version)

    def _set_quality(self, version: Version) -> None:
        if version.report is None:
            return
        live = version.full_report or version.report.live_sample
        measured = {**dict(version.report), "live_success": live and live.success}
        for name, gauge in self.quality.items():
            if measured[name] is not None:
                gauge.labels(version=version.id).set(measured[name])

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.collectors)


class Timer:
    """Latencies of one request for generations, from its creation on."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun = time.perf_counter()
        self._last: dict[tuple[int, int], float] = {}
        """When text of each answer came: of each task and choice."""
        self.queue_seconds: float | None = None
        """From the request to its first start, once there is one."""

    @property
    def seconds(self) -> float:
        """Since the request."""
        return time.perf_counter() - self._begun

    def take_event(self, place: int, event: GenerateEvent) -> None:
        """Observe what came of the task at `place`."""
        if isinstance(event, StartEvent) and self.queue_seconds is None:
            self.queue_seconds = self.seconds
        elif isinstance(event, TokenEvent):
            self._token((place, event.choice))
        elif isinstance(event, EndEvent):
            self._metrics.whole.observe(self.seconds)
            self._metrics.success.labels(finished_reason=event.finish_reason).inc()

    def _token(self, answer: tuple[int, int]) -> None:
        now = time.perf_counter()
        if not self._last:
            self._metrics.first_token.observe(now - self._begun)
        elif answer in self._last:
            self._metrics.between_tokens.observe(now - self._last[answer])
        self._last[answer] = now


class RequestTimer:
    """ASGI middleware: time to the first byte of each answer, by route and status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics: Metrics = scope["state"]["context"].metrics
                metrics.http.labels(
                    method=scope["method"] if scope["method"] in _METHODS else "other",
                    route=_label(scope),
                    status=message["status"],
                ).observe(time.perf_counter() - begun)
            await send(message)

        await self.app(scope, receive, timed)


def _label(scope: Scope) -> str:
    """The path of the route that was found, with the prefixes of all routers around it."""
    route = scope.get("route")
    paths: dict[int, str] = scope["app"].state.paths
    return paths.get(id(route), getattr(route, "path", "unmatched"))
