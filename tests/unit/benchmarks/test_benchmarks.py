"""The benchmarks run and report what they say; their figures are not looked at here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

import benchmarks.capacity
import benchmarks.covariance_corpus
import benchmarks.decode_step
import benchmarks.edit_gpu
import benchmarks.edit_throughput
import benchmarks.random_model
import benchmarks.retention
import benchmarks.serving
import benchmarks.tune
import benchmarks.user_facts
from benchmarks.measuring import Cost, counted
from benchmarks.plain import PlainMemit
from memit_core.facts import group_facts
from memit_core.packed import pack
from registry import FolderStore, Registry
from registry.checkup import examine
from tests.tiny_models import TEXT, save_tiny
from tests.unit.memit_core.examples import FACTS, editor_of, loaded_tiny

RECORDS = [
    {
        "requested_rewrite": {
            "prompt": "{} works as a",
            "subject": subject,
            "target_new": {"str": "baker"},
            "target_true": {"str": "chemist"},
        },
        "paraphrase_prompts": [f"In Lisbon {subject} was a"],
        "neighborhood_prompts": ["The boy was a"],
    }
    for subject in ("Anna Keller", "Martin Okafor", "Mount Elbrus")
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    facts, text = tmp_path / "facts.json", tmp_path / "text.txt"
    facts.write_text(json.dumps(RECORDS))
    text.write_text(TEXT)
    return {"facts": facts, "text": text, "model": save_tiny("llama", tmp_path / "model")}


def test_the_plain_procedure_and_ours_are_one_method() -> None:
    """It shares but tokens with ours; if it drifted away, its speed would compare nothing."""
    editor = editor_of(loaded_tiny("gpt2"))
    groups = [g for g in group_facts(FACTS) if len(g.facts) == 1]
    plain = PlainMemit(editor)
    ours = editor.targets(groups)
    for group, target in zip(groups, ours, strict=True):
        assert (plain.compute_z(group) - target.z).norm() < 1e-3 * target.z.norm()
    edited = plain.insert(groups, [target.z for target in ours])
    for path, delta in editor.solve(groups).items():
        base = editor.loaded.model.get_submodule(path).weight
        change = (edited.view.get_submodule(path).weight - base).T
        expected = delta.matrix(torch.device("cpu"))
        assert (change - expected).norm() < 1e-3 * expected.norm()


def test_edit_throughput(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchmarks.edit_throughput.main(files["facts"], 3, 3, 2, str(files["model"]), out)
    report: dict[str, Any] = json.loads(out.read_text())
    stages = report["stages"]
    assert stages["z, plain float32"]["facts"] == 2
    assert stages["z, ours float32"]["facts"] == 3
    assert {"insertion, plain", "insertion, ours"} < set(stages)
    each = {name: stage["seconds_per_fact"] for name, stage in stages.items()}
    for name, stage in stages.items():
        assert each[name] == pytest.approx(stage["seconds"] / stage["facts"], abs=1e-3)
    assert {"unedited", "ours float32", "plain float32"} <= set(report["quality"])
    assert set(report["speedup"]) >= {"z float32", "insertion"}
    for name, times in report["speedup"].items():
        ours = f"z, ours {name[2:]}" if name.startswith("z ") else "insertion, ours"
        plain = "z, plain float32" if name.startswith("z ") else "insertion, plain"
        assert times == round(each[plain] / each[ours], 2)
    # Operations do not depend on the machine: the plain procedure needs more of them.
    gflop = {name: stage["gflop_per_fact"] for name, stage in stages.items()}
    assert gflop["z, plain float32"] > gflop["z, ours float32"] > 0


def test_grouped_attention_is_counted() -> None:
    """As a GPU runs it, with fewer heads of keys than of queries; no kernel but its shapes."""
    cost = Cost()
    query, key = (torch.empty(2, heads, 5, 4, device="meta") for heads in (8, 2))
    with counted(cost):
        torch.ops.aten._scaled_dot_product_flash_attention(query, key, key)
    assert cost.flop == 2 * 2 * 8 * 5 * 5 * (4 + 4)


def test_packed_products_are_counted_with_their_gradients() -> None:
    model = nn.Sequential(nn.Linear(64, 32)).requires_grad_(False)
    pack(model)
    cost = Cost()
    with counted(cost):
        model(torch.randn(5, 64, requires_grad=True)).sum().backward()
    assert cost.flop == 2 * (2 * 5 * 64 * 32)


def test_edit_gpu_on_a_tiny_shape(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchmarks.edit_gpu.main(5, "tiny", "cpu", 500, out)
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["device"] == "cpu"
    assert report["stages"]["z"]["facts"] == 5
    stages = report["stages"]
    # By its configuration a fact's z takes more operations than its insertion, in every run alike.
    assert stages["z"]["gflop_per_fact"] > stages["insertion"]["gflop_per_fact"] > 0
    seconds = sum(stages[name]["seconds_per_fact"] for name in ("z", "insertion"))
    assert report["minutes_for_10000_facts"] == pytest.approx(10_000 * seconds / 60, rel=0.05)


def test_serving_of_random_weights(tmp_path: Path) -> None:
    """What a GPU is measured with at the shape of a large model, at a tiny one."""
    model, out, chart = (tmp_path / name for name in ("model", "out.json", "chart.png"))
    benchmarks.random_model.main(model, "tiny", "cpu")
    benchmarks.serving.main(
        "2", tokens=6, versions=2, model=str(model), rows="2", json_out=out, chart=chart
    )
    rows = json.loads(out.read_text())["rows"]
    assert [row["server"] for row in rows] == [
        "generate",
        "the engine, in process",
        "memit-service",
        "memit-service, edited versions: 1",
        "memit-service, edited versions: 2",
    ]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert all(row["failures"] == 0 and row["itl_ms"] for row in rows[1:])
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_every_token_of_a_random_model_is_text() -> None:
    tokenizer = benchmarks.random_model.trained_tokenizer(8_000)
    assert len(tokenizer) == 8_000
    assert all(tokenizer.decode([token]) for token in range(8_000))
    assert max(tokenizer(TEXT)["input_ids"]) < benchmarks.random_model.VOCABULARY


def test_decode_step(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchmarks.decode_step.main(rows=3, steps=4, model=str(files["model"]), json_out=out)
    report = json.loads(out.read_text())
    assert set(report["ways"]) == set(benchmarks.decode_step.WAYS)
    assert report["ways"]["greedy"]["ratio"] == 1.0
    assert all(way["milliseconds"] > 0 for way in report["ways"].values())


def test_tune(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    variants = ["{}", '{"v_stop_after_lead": 0, "v_num_grad_steps": 2}']
    benchmarks.tune.main(
        files["facts"],
        files["text"],
        variants,
        sizes="2,3",
        lambdas="1,1000",
        corpus=files["text"],
        scored=2,
        model=str(files["model"]),
        json_out=out,
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["facts"] for row in rows] == [2, 3] * 5
    assert [row["variant"] for row in rows] == ["unedited"] * 2 + [
        v for v in variants for _ in "1234"
    ]
    assert rows[0]["perplexity_ratio"] == 1.0
    assert rows[2]["perplexity_ratio"] != 1.0


def test_capacity(files: dict[str, Path], tmp_path: Path) -> None:
    out, chart = tmp_path / "out.json", tmp_path / "out.png"
    hparams = tmp_path / "hparams.json"
    hparams.write_text('{"layers": [0, 1], "v_num_grad_steps": 3, "n_contexts": 1}')

    def measured(stacked: str) -> list[dict[str, Any]]:
        benchmarks.capacity.main(
            files["facts"],
            files["text"],
            tmp_path / "home",
            sizes="1,3",
            stacked_sizes=stacked,
            scored=2,
            hparams=hparams,
            model=str(files["model"]),
            json_out=out,
            chart=chart,
        )
        rows: list[dict[str, Any]] = json.loads(out.read_text())
        return rows

    rows = measured("1,2")
    assert [(r["way"], r["facts"], r["asked"]) for r in rows] == [
        ("at once", 1, 1),
        ("at once", 3, 2),
        ("stacked", 1, 1),
        ("stacked", 2, 2),
    ]
    # A single fact is the same either way; later ones are optimised on what is there.
    assert rows[0]["perplexity_ratio"] == rows[2]["perplexity_ratio"] != 1
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert measured("")[:2] == rows[:2]


def test_covariance_corpus(files: dict[str, Path], tmp_path: Path) -> None:
    out, chart = tmp_path / "out.json", tmp_path / "out.png"
    benchmarks.covariance_corpus.main(
        files["facts"],
        files["text"],
        corpus=[f"own={files['text']}"],
        tokens="300,600",
        model=str(files["model"]),
        json_out=out,
        chart=chart,
    )
    rows = json.loads(out.read_text())
    assert [(row["corpus"], row["tokens"]) for row in rows[1:]] == [
        (corpus, size) for corpus in ("packaged sample", "own") for size in (300, 600)
    ]
    assert len({row["perplexity_ratio"] for row in rows}) == 5
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_user_facts_without_a_service(files: dict[str, Path], tmp_path: Path) -> None:
    out, hparams = tmp_path / "out.json", tmp_path / "hparams.json"
    hparams.write_text(
        '{"layers": [0, 1], "v_num_grad_steps": 2, "n_contexts": 1, "mom2_n_tokens": 500}'
    )
    benchmarks.user_facts.main(model=str(files["model"]), hparams=hparams, json_out=out)
    kinds = json.loads(out.read_text())
    assert {kind: len(rows) for kind, rows in kinds.items()} == {
        kind: len(rows) for kind, rows in benchmarks.user_facts.read_kinds().items()
    }
    assert all(
        set(benchmarks.user_facts.FORMS) < set(row) for rows in kinds.values() for row in rows
    )


def test_user_facts_may_be_told_instead(files: dict[str, Path], tmp_path: Path) -> None:
    row = {"subject": "Oslo", "prompt": "{} is in", "target_new": "Chile", "question": "Where?"}
    plain, told = (benchmarks.user_facts.prompts_of(row, told=told) for told in (False, True))
    assert not any("Oslo is in Chile." in prompt for prompt in plain)
    for prompt in told:
        assert prompt.count("Oslo is in Chile.\n") == 1
    assert [prompt.rsplit("\n", 1)[-1] for prompt in told[:2]] == ["Oslo is in", "Oslo is in"]
    assert all("<|im_start|>user" in prompt.partition("Chile")[0] for prompt in told[1:])
    out = tmp_path / "out.json"
    benchmarks.user_facts.main(model=str(files["model"]), told=True, json_out=out)
    assert sum(map(len, json.loads(out.read_text()).values())) == 30
    with pytest.raises(typer.BadParameter, match="needs --model"):
        benchmarks.user_facts.main(told=True)


def test_what_counts_as_an_answer() -> None:
    row = {"target_new": "Rome"}
    answers = [" rome, Italy", "In Rome", "It is Rome.", "Paris"]
    assert benchmarks.user_facts.hits_of(row, answers) == [True, False, True, False]


def test_retention(tmp_path: Path) -> None:
    registry = Registry(FolderStore(tmp_path))
    benchmarks.retention.fill(registry, 4, 2)
    before = benchmarks.retention.sizes(registry, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(count for count, _ in before.values()) == len(files)
    assert sum(size for _, size in before.values()) == sum(path.stat().st_size for path in files)
    assert before["weights"][0] == 4 * 5
    assert examine(registry).findings == []
