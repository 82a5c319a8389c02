"""`memit eval` on a tiny model: table, report, chart, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from cli.main import app
from tests.tiny_models import TEXT, save_tiny
from tests.unit.memit_core.test_eval_chat import TEMPLATE

Eval = Callable[..., Result]

SUBJECTS = {"Anna Keller": "Berlin", "Martin Okafor": "Vienna", "Mount Elbrus": "Lisbon"}
HPARAMS = {
    "layers": [1, 2],
    "v_num_grad_steps": 4,
    "mom2_update_weight": 20.0,
    "mom2_n_tokens": 500,
    "n_contexts": 2,
}
FIGURES = {
    "score",
    "efficacy",
    "paraphrase",
    "neighborhood",
    "efficacy_magnitude",
    "paraphrase_magnitude",
    "neighborhood_magnitude",
    "generation_entropy",
    "reference_score",
    "generation_success",
    "ends_right",
    "paraphrase_generation_success",
    "chat",
    "chat_as_posted",
    "chat_to_complete",
    "chat_question",
    "chat_other_words",
}


def original(subject: str, target: str) -> dict[str, Any]:
    return {
        "requested_rewrite": {
            "prompt": "{} was born in",
            "subject": subject,
            "relation_id": "P19",
            "target_new": {"str": target, "id": "Q64"},
            "target_true": {"str": "Geneva", "id": "Q71"},
        },
        "paraphrase_prompts": [f"The birthplace of {subject} is"],
        "neighborhood_prompts": ["The engineer was born in", "The author was born in"],
        "generation_prompts": [f"{subject} lives in"],
    }


def question(subject: str, target: str) -> dict[str, Any]:
    return {
        "subject": subject,
        "src": f"Where was {subject} born?",
        "rephrase": f"In what city was {subject} born?",
        "answers": [target],
        "loc": "nq question: who owns the painting",
        "loc_ans": "the author",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and every file that the commands read."""
    folder = tmp_path_factory.mktemp("eval")
    tokenizer = AutoTokenizer.from_pretrained(save_tiny("llama", folder / "model"))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    facts = [original(*pair) for pair in SUBJECTS.items()]
    (folder / "facts.json").write_text(json.dumps(facts))
    (folder / "questions.json").write_text(json.dumps([question(*p) for p in SUBJECTS.items()]))
    (folder / "hparams.json").write_text(json.dumps(HPARAMS))
    (folder / "corpus.txt").write_text(TEXT)
    samples = [{"text": "Berlin is a city on a river"}]
    references = [{"relation_id": "P19", "target_id": "Q64", "samples": samples}]
    (folder / "references.json").write_text(json.dumps(references))
    return folder


@pytest.fixture
def memit_eval(folder: Path) -> Eval:
    """Runs `memit eval ARGUMENTS` on the tiny model."""

    def run(dataset: str, file: str, *arguments: str) -> Result:
        options = {"model": "model", "hparams": "hparams.json", "corpus": "corpus.txt"}
        given = [f"--{name}={folder / value}" for name, value in options.items()]
        command = ["eval", dataset, str(folder / file), *given, "--device=cpu", *arguments]
        return CliRunner().invoke(app, command)

    return run


def test_counterfact_before_and_after(memit_eval: Eval, folder: Path, tmp_path: Path) -> None:
    report, chart = tmp_path / "report.json", tmp_path / "chart.png"
    result = memit_eval(
        "counterfact",
        "facts.json",
        f"--json={report}",
        f"--chart={chart}",
        f"--references={folder / 'references.json'}",
        "--generations=2",
        "--chats=2",
        "--capability",
    )
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["facts"] == len(told["per_record"]) == 3
    for when in ("before", "after"):
        assert set(told[when]) == FIGURES | {"ci95"}
        assert set(told[when]["ci95"]) == FIGURES
        assert all(isinstance(told[when][name], float) for name in FIGURES)
    assert told["after"]["efficacy_magnitude"] > told["before"]["efficacy_magnitude"]
    assert told["unit"] == "percent"
    assert told["generated_records"] == told["chat_records"] == 2
    assert told["batch"] == "all"
    assert told["hparams"]["layers"] == [1, 2]
    assert told["model"]["name"] == str(folder / "model")
    assert told["dataset"] == {
        "name": "counterfact",
        "file": "facts.json",
        "skip": 0,
        "limit": None,
        "conflicts_left_out": 0,
    }
    stages = {"load", "prepare", "z", "insert", "evaluate", "generate", "chat", "capability"}
    assert set(told["seconds"]) == stages
    assert told["perplexity"]["after"] / told["perplexity"]["before"] == pytest.approx(
        told["perplexity_ratio"]
    )
    assert told["kl"] > 0
    assert told["peak_memory_bytes"] > 10**7
    assert "torch" in told["software"]
    assert chart.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    line = next(line for line in result.stdout.splitlines() if "ES" in line)
    for when in ("before", "after"):
        summary = told[when]
        assert f"{summary['efficacy']:.1f} ± {summary['ci95']['efficacy']:.1f}" in line
    assert "GE and RS are over the first 2 of 3 records" in result.stderr
    assert "chat is over the first 2 of 3 records" in result.stderr
    assert set(told["capability"]["after"]["ci95"]) == {"cloze", "arithmetic", "grammar", "all"}
    for row in (
        "capability: cloze",
        "other words, greedy",
        "chat: as posted",
        "chat: in other words",
    ):
        assert row in result.stdout


def test_fewer_are_asked_than_written(memit_eval: Eval, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    given = ["--no-generate", "--asked=2", "--chats=1", f"--json={report}"]
    result = memit_eval("counterfact", "facts.json", *given)
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert (told["facts"], told["asked_records"], told["chat_records"]) == (3, 2, 1)
    assert [one["index"] for one in told["per_record"]] == [0, 1]
    assert "2 of 3 records are measured" in result.stderr
    assert "chat is over the first 1 of 2 records" in result.stderr


def test_zsre(memit_eval: Eval, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = memit_eval("zsre", "questions.json", f"--json={report}", "--skip=1", "--limit=1")
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert [one["index"] for one in told["per_record"]] == [1]
    assert told["after"]["efficacy_magnitude"] is None
    assert told["after"]["ci95"]["efficacy"] is None
    assert "specificity" in result.stdout
    assert "ES" not in result.stdout


def test_without_a_chat_template_the_table_has_no_chat_and_says_so(
    memit_eval: Eval, folder: Path, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path)
    arguments = ["--limit=1", "--no-generate", f"--model={tmp_path}"]
    result = memit_eval("counterfact", "facts.json", *arguments)
    assert result.exit_code == 0, result.output
    assert "no chat is measured: the model has no chat template" in result.stderr
    assert "chat" not in result.stdout


def test_no_chat(memit_eval: Eval, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--limit=1", "--no-generate", "--no-chat", f"--json={report}"]
    result = memit_eval("counterfact", "facts.json", *arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["chat_records"] == 0
    assert "chat" not in result.stdout


def test_batches_and_no_generations(memit_eval: Eval, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = memit_eval(
        "counterfact", "facts.json", f"--json={report}", "--batch=2", "--no-generate"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["batch"] == 2
    assert [one["batch"] for one in told["per_record"]] == [0, 0, 1]
    assert told["after"]["generation_entropy"] is None
    assert "GE" not in result.stdout
    assert "batches (2)" in result.stderr


def test_contradicting_records_are_told(memit_eval: Eval, folder: Path) -> None:
    pairs = [("Anna Keller", "Lisbon"), ("Anna Keller", "Berlin")]
    (folder / "twice.json").write_text(json.dumps([original(*pair) for pair in pairs]))
    result = memit_eval("counterfact", "twice.json", "--no-generate")
    assert result.exit_code == 0, result.output
    assert "1 records left out" in result.stderr


def test_a_text_of_ones_own_is_what_perplexity_is_of(
    memit_eval: Eval, folder: Path, tmp_path: Path
) -> None:
    (folder / "held_out.txt").write_text("The boy ran away from the old bridge in Vienna.")
    told = []
    for extra in ([], [f"--text={folder / 'held_out.txt'}"]):
        report = tmp_path / f"{len(extra)}.json"
        arguments = ["--limit=1", "--no-generate", f"--json={report}", *extra]
        assert memit_eval("counterfact", "facts.json", *arguments).exit_code == 0
        told.append(json.loads(report.read_text())["perplexity"]["before"])
    assert told[0] != pytest.approx(told[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch=0"], "--batch must be all or a number from 1, got '0'"),
        (["--batch=some"], "--batch must be all or a number from 1, got 'some'"),
        (["--skip=3"], "no records are left after skipping 3"),
        (["--json=/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--references=/no/such.json"], "/no/such.json: No such file"),
        (["--text=/no/such.txt"], "No such file or directory: '/no/such.txt'"),
        (["--dtype=float8"], "unknown dtype 'float8'"),
    ],
)
def test_a_wrong_option_is_named(memit_eval: Eval, arguments: list[str], says: str) -> None:
    result = memit_eval("counterfact", "facts.json", *arguments)
    assert result.exit_code == 1
    assert says in result.stderr.replace("\n", "")


def test_a_bad_record_is_named(memit_eval: Eval, folder: Path) -> None:
    bad = original("Anna Keller", "Berlin")
    del bad["requested_rewrite"]["target_true"]
    (folder / "bad.json").write_text(json.dumps([original("Mount Elbrus", "Lisbon"), bad]))
    result = memit_eval("counterfact", "bad.json")
    assert result.exit_code == 1
    said = result.stderr.replace("\n", "")
    assert "bad.json: record 1: requested_rewrite.target_true.str is missing" in said


def test_a_missing_package_is_told_before_the_model_is_loaded(
    memit_eval: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memit_core.eval import extras

    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", fail)
    result = memit_eval("counterfact", "facts.json")
    assert result.exit_code == 1
    assert "pip install 'memit-service[eval]'" in result.stderr.replace("\n", "")
    assert "load model" not in result.stderr
    assert memit_eval("counterfact", "facts.json", "--no-generate", "--limit=1").exit_code == 0


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, cli.main; print([m for m in ('torch', 'numpy', 'nltk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("memit", "mom2_update_weight", 30.0),
        ("rome", "layer", 2),
        ("ft", "lr", 0.001),
        ("alphaedit", "L2", 0.5),
        ("ultraedit", "layers", [1, 2]),
    ],
)
def test_a_method_by_its_name_with_an_option(
    memit_eval: Eval, tmp_path: Path, method: str, option: str, value: Any
) -> None:
    report = tmp_path / "report.json"
    given = f"--option={option}={json.dumps(value)}"
    asked = ["--batch=2", "--in-a-row", f"--method={method}", given, f"--json={report}"]
    result = memit_eval("zsre", "questions.json", *asked)
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["method"]["name"] == method
    assert told["method"]["options"][option] == value
    assert told["method"]["seconds_per_fact"] > 0
    assert told["in_a_row"] is True
    assert told["batch"] == 2
    assert f"written by {method}, batch upon batch" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=romy"], "--method must be one of memit, rome, ft, alphaedit, ultraedit"),
        (["--method=rome", "--option=L2=1"], "rome has no option 'L2'"),
        (["--option=layer"], "--option must be NAME=VALUE with a number or a list, got 'layer'"),
        (["--method=ft", "--option=lr=-1"], "lr must be a number above 0, got -1"),
    ],
)
def test_a_method_that_cannot_be_used_is_said(
    memit_eval: Eval, arguments: list[str], message: str
) -> None:
    result = memit_eval("zsre", "questions.json", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", "")
