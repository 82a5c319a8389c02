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
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5,
                  10, 20, 40, 80, 160, 640, 2560)  # fmt: skip
_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
                  20, 40, 80)  # fmt: skip
_REQUEST_SECONDS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
                    960, 1920, 7680)  # fmt: skip
"""These three are vLLM's, so that its dashboards fit."""


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
        self.first_token = self._histogram(
            "time_to_first_token", "From the request to its first text.", _FIRST_SECONDS
        )
        self.between_tokens = self._histogram(
            "inter_token_latency", "Between two pieces of text of one answer.", _TOKEN_SECONDS
        )
        self.each_token = self._histogram(
            "request_time_per_output_token", "Of an answer, after its first.", _TOKEN_SECONDS
        )
        self.whole = self._histogram(
            "e2e_request_latency", "From the request to the end of its answer.", _REQUEST_SECONDS
        )
        self.queue = self._histogram(
            "request_queue_time", "From the request to its start by an engine.", _REQUEST_SECONDS
        )
        self.prefill = self._histogram(
            "request_prefill_time", "From the start to the first text.", _REQUEST_SECONDS
        )
        self.decode = self._histogram(
            "request_decode_time", "From the first text of an answer to its end.", _REQUEST_SECONDS
        )
        self.prompt_tokens = Counter(
            "memit_prompt_tokens", "Of generations that came to their end.", registry=registry
        )
        self.generation_tokens = Counter(
            "memit_generation_tokens", "Of answers that came to their end.", registry=registry
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

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"memit_{name}_seconds", text, buckets=buckets, registry=self.collectors)

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
