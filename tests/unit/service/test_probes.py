"""Probes and metrics: what an orchestrator and a dashboard see."""

from __future__ import annotations

from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from contracts.edits import Progress
from contracts.reports import FullReport
from contracts.transport import starting_key
from contracts.workers import WorkerStarting
from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import about
from tests.unit.service.worker_peer import Editor, Engine, says


def test_the_process_is_healthy_whatever_else_is_not(serve: Serve) -> None:
    client = serve(MEMIT_REDIS_URL="redis://127.0.0.1:1/0")
    assert client.get("/healthz").json() == {"status": "ok"}
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1
    assert [error["field"] for error in answer.json()["errors"]] == ["registry", "redis", "worker"]


def test_ready_when_a_worker_holds_what_active_names(
    client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str
) -> None:
    def failed() -> dict[str, str]:
        answer = client.get("/readyz")
        assert answer.status_code == 503
        return {error["field"]: error["reason"] for error in answer.json()["errors"]}

    v0 = str(registry.versions.by_seq(0))
    assert failed() == {"worker": f"none holds {v0} (0 alive, 0 ready)"}
    progress = Progress(stage="load model", done=1, total=2, eta_seconds=39.6, at=1.0)
    on_its_way = WorkerStarting(host="gpu-1", pid=7, model="tiny", progress=progress)
    with Redis.from_url(redis_url) as redis:
        redis.set(starting_key("gpu-1", 7), on_its_way.model_dump_json())
        redis.set(starting_key("gpu-1", 8), "{}")
    assert failed() == {
        "worker": f"none holds {v0} (0 alive, 0 ready); "
        "gpu-1 is starting: load model 50%, 0:00:40 left"
    }
    with Redis.from_url(redis_url) as redis:
        redis.delete(starting_key("gpu-1", 7))
    engine = Engine(redis_url, says("x"))
    engine.report(versions=[v0], ready=False)
    assert failed() == {"worker": f"none holds {v0} (1 alive, 0 ready)"}
    engine.report(versions=[v0])
    assert client.get("/readyz").json() == {"status": "ready", "version": v0, "workers": 1}

    editor.run(client.post("/edits", json={"facts": [about("Oslo")]}).json()["id"])
    v1 = str(registry.versions.by_seq(1))
    assert failed() == {"worker": f"none holds {v1} (1 alive, 1 ready)"}
    engine.report(versions=[v0, v1])
    assert client.get("/readyz").json()["version"] == v1


def values(client: httpx2.Client) -> dict[tuple[str, ...], float]:
    """Every sample of `/metrics` by its name and label values."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics(client: httpx2.Client, editor: Editor, registry: Registry, redis_url: str) -> None:
    made = [client.post("/edits", json={"facts": [about(f"C{n}")]}).json() for n in range(3)]
    editor.run(made[0]["id"])
    client.delete(f"/edits/{made[1]['id']}")
    client.get("/nothing/here")
    with Engine(redis_url, says("a", "b", "c")).running() as engine:
        engine.report(versions=[])
        for _ in range(2):
            assert client.post("/generate", json={"prompt": "x"}).status_code == 200
        seen = values(client)
        assert seen["memit_workers", "true"] == 1
        assert seen["memit_num_requests_running",] == 2
        assert seen["memit_num_requests_waiting",] == 1
        assert seen["memit_worker_rss_bytes", engine.name] == 3_000_000
        engine.die()

    assert seen["memit_edits", "committed"] == 1
    assert seen["memit_edits", "cancelled"] == 1
    assert seen["memit_edits", "queued"] == 1
    assert seen["memit_edits", "running"] == 0
    assert seen["memit_edit_queue_depth",] == 3  # no RQ worker took them off the queue
    assert seen["memit_active_version_info", str(registry.versions.by_seq(1))] == 1
    assert seen["memit_active_epoch",] == 2
    assert seen["memit_request_success_total", "length"] == 2
    assert seen["memit_time_to_first_token_seconds_count",] == 2
    assert seen["memit_inter_token_latency_seconds_count",] == 4
    assert seen["memit_e2e_request_latency_seconds_count",] == 2
    for phase in ("queue", "prefill", "decode"):
        assert seen[f"memit_request_{phase}_time_seconds_count",] == 2, phase
    assert seen["memit_generation_tokens_total",] == 6
    assert seen["memit_prompt_tokens_total",] > 0
    requests = "memit_http_request_duration_seconds_count"
    assert seen[requests, "POST", "/edits", "202"] == 3
    assert seen[requests, "DELETE", "/edits/{edit_id}", "200"] == 1
    assert seen[requests, "GET", "unmatched", "404"] == 1

    editor.run(made[2]["id"])
    later = values(client)
    assert later["memit_edits", "committed"] == 2
    assert later["memit_edits", "queued"] == 0
    assert later["memit_workers", "true"] == 0
    assert [series for series in later if series[0] == "memit_worker_rss_bytes"] == []
    assert ("memit_active_version_info", str(registry.versions.by_seq(1))) not in later


def quality(client: httpx2.Client) -> dict[tuple[str, ...], float]:
    """The samples of the active version's quality."""
    name = "memit_version_"
    return {(k[0].removeprefix(name), *k[1:]): v for k, v in values(client).items() if name in k[0]}


def test_metrics_of_the_active_version_alone(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    """Its report at the commit, then its full report; what was not measured has no series."""
    assert quality(client) == {}, "nothing was measured on v0"
    made = [client.post("/edits", json={"facts": [about(f"C{n}")]}).json() for n in range(2)]
    measured = {
        "efficacy": 0.9,
        "paraphrase": 0.8,
        "specificity": 0.7,
        "chat_success": 0.4,
        "perplexity_ratio": 1.1,
        "kl": 0.01,
        "live_sample": {"facts": 32, "success": 0.6},
    }
    editor.run(made[0]["id"], measured=measured)
    v1 = str(registry.versions.by_seq(1))
    at_commit = {
        ("success", v1): 1.0,
        ("efficacy", v1): 0.9,
        ("paraphrase", v1): 0.8,
        ("specificity", v1): 0.7,
        ("chat_success", v1): 0.4,
        ("perplexity_ratio", v1): 1.1,
        ("kl", v1): 0.01,
        ("live_success", v1): 0.6,
    }
    assert quality(client) == at_commit
    registry.full_reports.put(v1, FullReport(facts=40, live=40, success=0.5, seconds=1, at=2))
    assert quality(client) == at_commit | {("live_success", v1): 0.5}

    editor.run(made[1]["id"])
    assert quality(client) == {("success", str(registry.versions.by_seq(2))): 1.0}


def test_metrics_though_the_active_manifest_is_damaged(
    serve: Serve, editor: Editor, registry: Registry
) -> None:
    version = registry.versions.resolve("active")
    path = registry.store.root / "versions" / f"{version}.json"
    path.chmod(0o600)
    path.write_bytes(b"{}")
    seen = values(serve())
    assert seen["memit_active_version_info", version] == 1


def test_metrics_without_redis(serve: Serve, editor: Editor, tmp_path: Path) -> None:
    seen = values(serve(MEMIT_REDIS_URL="redis://127.0.0.1:1/0"))
    assert seen["memit_redis_up",] == 0
    assert seen["memit_active_epoch",] == 1
