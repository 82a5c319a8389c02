"""The benchmarks that post to a running service work, and report what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import disturbances, edits_in_a_row, post_to_active, serving, user_facts
from benchmarks.adapters import adapters_of, lora_arguments
from benchmarks.servers import Server
from tests.integration.conftest import HPARAMS
from tests.integration.test_openai import TEMPLATE
from tests.stack import CORPUS, Stack
from tests.tiny_models import save_tiny, tiny_tokenizer

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

    server = Server("ours", url, ["tiny@v1", "tiny@v2"], psutil.Process())
    folders = adapters_of(server, tmp_path / "adapters")
    assert list(folders) == ["v1", "v2"]
    assert all((one / "adapter_model.safetensors").is_file() for one in folders.values())
    asked = lora_arguments(folders)
    assert asked[:3] == ["--enable-lora", "--max-loras", "2"]
    config = json.loads((folders["v2"] / "adapter_config.json").read_text())
    assert int(asked[asked.index("--max-lora-rank") + 1]) >= config["r"]
    assert asked[-3:] == ["--lora-modules", *(f"{name}={path}" for name, path in folders.items())]

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


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What a service of a tiny model needs, when a benchmark starts it."""
    hparams, corpus = tmp_path / "hparams.json", tmp_path / "corpus.txt"
    hparams.write_text(json.dumps(HPARAMS))
    corpus.write_text(CORPUS)
    monkeypatch.setenv("MEMIT_HPARAMS", str(hparams))
    monkeypatch.setenv("MEMIT_CORPUS", str(corpus))
    monkeypatch.setenv("MEMIT_GATE_MAX_PERPLEXITY_RATIO", "1e9")
    monkeypatch.setattr(serving, "PROMPT_CHARS", (20, 60))
    return monkeypatch


@pytest.mark.usefixtures("small")
def test_serving_is_measured_through_http(tiny_folder: Path, tmp_path: Path) -> None:
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
    alone = rows[2]
    assert alone["server"] == "the engine, in process"
    assert alone["tokens_per_second"] / alone["requests_per_second"] == pytest.approx(6)
    assert alone["failures"] == 0
    served = [row for row in rows[3:] if row["server"] != "generate"]
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


def test_what_streams_notice_is_measured(tmp_path: Path, small: pytest.MonkeyPatch) -> None:
    model = save_tiny("llama", tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    for name, value in (("SWAP_SECONDS", 0.5), ("LONG_SECONDS", 0.5)):
        small.setattr(disturbances, name, value)
    for name in ("LONG_CHARS", "SYSTEM_CHARS"):
        small.setattr(disturbances, name, 60)
    out = tmp_path / "disturbances.json"
    disturbances.main(streams=2, seconds=2, tokens=8, facts=2, model=str(model), json_out=out)
    found = json.loads(out.read_text())
    others = ["other requests", "other requests and swaps"]
    beside = ["nothing", *others, "an edit of 2", "long prompts", "nothing, again"]
    assert [row["beside"] for row in found["rows"]] == beside
    assert all(row["failures"] == 0 and row["tokens_per_second"] > 0 for row in found["rows"])
    for row, versions in zip(found["rows"][1:3], (1, 2), strict=True):
        assert (row["wrong"], row["other_failures"]) == (0, 0)
        assert len(row["versions"]) == versions
        assert row["other_answers"] == 3 * row["hung_up"] > 0, "one pinned, two choices"
    assert min(found["system_prompt"].values()) > 0
    assert (found["replicas"]["requests"], found["replicas"]["failed"]) == (40, 0)
