"""The benchmarks that post to a running service work, and report what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import edits_in_a_row, post_to_active, serving, user_facts
from tests.integration.conftest import HPARAMS
from tests.stack import CORPUS, Stack

pytestmark = pytest.mark.slow


def test_they_measure_a_service(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    stack = make_stack()
    url = str(stack.http.base_url)

    out, chart = tmp_path / "row.json", tmp_path / "row.png"
    edits_in_a_row.main(edits=5, live=2, url=url, json_out=out, chart=chart)
    row = json.loads(out.read_text())
    assert len(row["rss_mib"]) == 5
    assert min(row["rss_mib"]) > 10
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert stack.http.get("/facts").json()["total"] == 2

    records = tmp_path / "records.json"
    rows = [
        {
            "requested_rewrite": {
                "prompt": "{} works as a",
                "subject": f"Anna Keller {i}",
                "target_new": {"str": "baker"},
                "target_true": {"str": "chemist"},
            },
            "paraphrase_prompts": ["In Lisbon she was a"],
            "neighborhood_prompts": ["The boy was a"],
        }
        for i in range(3)
    ]
    records.write_text(json.dumps(rows))
    post_to_active.main(records, sizes="1,2", url=url, json_out=out)
    measured = json.loads(out.read_text())
    assert [(m["live_before"], m["facts"]) for m in measured] == [(0, 1), (1, 2)]
    assert all(m["stages"]["z"] > 0 for m in measured)

    user_facts.main(url=url, json_out=out)
    kinds = json.loads(out.read_text())
    assert set(kinds) == set(user_facts.read_kinds())
    assert all(set(user_facts.FORMS) < set(fact) for facts in kinds.values() for fact in facts)


def test_serving_is_measured_through_http(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams, corpus = tmp_path / "hparams.json", tmp_path / "corpus.txt"
    hparams.write_text(json.dumps(HPARAMS))
    corpus.write_text(CORPUS)
    monkeypatch.setenv("MEMIT_HPARAMS", str(hparams))
    monkeypatch.setenv("MEMIT_CORPUS", str(corpus))
    monkeypatch.setattr(serving, "PROMPT_CHARS", (20, 60))
    monkeypatch.setenv("MEMIT_GATE_MAX_PERPLEXITY_RATIO", "1e9")
    out, chart = tmp_path / "serving.json", tmp_path / "serving.png"
    serving.main(
        concurrency="1,2",
        rates="20",
        tokens=6,
        versions=2,
        slo="60,60",
        model=str(tiny_folder),
        dtype="float32",
        rows="1,2",
        vllm_python=None,
        json_out=out,
        chart=chart,
    )
    rows = json.loads(out.read_text())["rows"]
    served = [row for row in rows if row["server"] != "generate"]
    assert [row["load"] for row in served[:3]] == ["1 at once", "2 at once", "20 a second"]
    assert {row["server"] for row in served[3:]} == {
        "memit-service, edited versions: 1",
        "memit-service, edited versions: 2",
    }
    for row in served:
        assert (row["failures"], row["errors"]) == (0, [])
        assert row["goodput"] == pytest.approx(row["requests_per_second"])
        tokens = row["tokens_per_second"] / row["requests_per_second"]
        assert tokens == pytest.approx(6)
        assert row["ttft_ms"]["p50"] > 0
        assert row["cpu"]
    assert chart.read_bytes().startswith(b"\x89PNG")
