"""`memit eval capability` on a tiny model: alone, with facts, and of a registry's version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from cli.main import app
from memit_core.loading import load_model
from tests.tiny_models import TEXT, save_tiny
from tests.unit.cli.test_eval import HPARAMS
from tests.unit.worker.workshop import Workshop, fact

Capability = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capability")
    save_tiny("llama", folder / "model")
    save_tiny("llama", folder / "other", seed=1)
    (folder / "hparams.json").write_text(json.dumps(HPARAMS))
    (folder / "corpus.txt").write_text(TEXT)
    line = {"subject": "Anna Keller", "prompt": "{} was born in", "target_new": "Berlin"}
    (folder / "facts.jsonl").write_text(json.dumps(line))
    return folder


@pytest.fixture
def capability(folder: Path) -> Capability:
    def run(*arguments: str, model: str = "model") -> Result:
        files = {"model": model, "hparams": "hparams.json", "corpus": "corpus.txt"}
        given = [f"--{name}={folder / value}" for name, value in files.items()]
        command = ["eval", "capability", *given, "--device=cpu", *arguments]
        return CliRunner().invoke(app, command)

    return run


def test_a_model_alone(capability: Capability, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = capability(f"--json={report}")
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["after"] is None
    assert told["items"]["cloze"] >= 100
    assert told["unit"] == "percent"
    cell = f"{told['before']['cloze']:.1f} ± {told['before']['ci95']['cloze']:.1f}"
    line = next(line for line in result.stdout.splitlines() if "cloze" in line)
    assert cell in line
    assert "before" not in result.stdout
    assert f"cloze {told['items']['cloze']}" in result.stderr


def test_facts_are_written_and_compared(
    capability: Capability, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    result = capability(f"--facts={folder / 'facts.jsonl'}", f"--json={report}")
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["facts"] == 1
    line = next(line for line in result.stdout.splitlines() if "all items" in line)
    for when in ("before", "after"):
        assert f"{told[when]['all']:.1f} ± {told[when]['ci95']['all']:.1f}" in line
    assert {"load", "before", "edit", "after"} == set(told["seconds"])


def test_a_version_of_a_registry(
    capability: Capability, folder: Path, tmp_path: Path, redis_url: str
) -> None:
    report = tmp_path / "report.json"
    with Redis.from_url(redis_url) as redis:
        loaded = load_model(folder / "model", device="cpu")
        version = Workshop(tmp_path / "registry", redis, loaded=loaded).version([fact("Anna")])
    arguments = (f"--home={tmp_path}", f"--json={report}")
    result = capability("--version=active", *arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(report.read_text())
    assert told["after"] is not None
    base = capability("--version=v0", *arguments)
    assert base.exit_code == 0, base.output
    unedited = json.loads(report.read_text())
    assert unedited["after"] == unedited["before"] == told["before"]
    other = capability(f"--version={version}", *arguments, model="other")
    assert other.exit_code == 1
    assert f"is not the base of {version}" in other.stderr.replace("\n", "")
    missing = capability("--version=v9", *arguments)
    assert missing.exit_code == 1
    assert "no version or alias 'v9'" in missing.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--facts=a.jsonl", "--version=v1"], "give --facts or --version, not both"),
        (["--facts=/no/such.jsonl"], "/no/such.jsonl: No such file"),
        (["--version=v1", "--home=/no/such"], "there is no registry"),
        (["--json=/no/such/folder/x.json"], "there is no folder /no/such/folder"),
    ],
)
def test_a_wrong_option_is_named(capability: Capability, arguments: list[str], says: str) -> None:
    result = capability(*arguments)
    assert result.exit_code == 1
    assert says in result.stderr.replace("\n", "")
