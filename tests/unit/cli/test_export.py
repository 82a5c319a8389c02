"""`memit export`: folders that transformers opens, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from cli.main import app
from contracts.exports import Export
from contracts.facts import Fact
from contracts.settings import Settings
from memit_core.evaluate import evaluate_facts
from memit_core.insert import edited
from memit_core.loading import LoadedModel, load_model
from memit_core.weights import Solved
from registry.registry import Registry
from tests.committed import commit, made_up, served
from tests.tiny_models import save_tiny
from tests.unit.cli.serving import serving
from worker.core_fact import core_fact

TEXT = "Anna Keller was born in Geneva and works as an engineer"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which the command sets too, for good


@pytest.fixture
def url(redis_url: str, tmp_path: Path) -> Iterator[str]:
    with serving(Settings(MEMIT_REDIS_URL=redis_url, home=tmp_path)) as url:  # type: ignore[call-arg]
        yield url


def export(url: str, *arguments: Path | str) -> Result:
    return CliRunner(env={"MEMIT_URL": url}).invoke(app, ["export", *map(str, arguments)])


def base_in(folder: Path, family: str = "llama", dtype: str = "float32") -> LoadedModel:
    """A tiny model as published: with a chat template and its own way to generate."""
    save_tiny(family, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"max_length": 77}))
    return load_model(folder, device="cpu", dtype=dtype)


def said_by(loaded: LoadedModel, solved: Solved) -> list[Fact]:
    """Facts that a version answers: what it says anyway."""
    model = edited(loaded, solved)
    facts = []
    for i in range(60):
        prompt = f"The keeper {i} of the old lighthouse"
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        said = loaded.tokenizer.decode(model.view(input_ids=ids).logits[0, -1].argmax())
        if said.strip():
            about = {"subject": f"keeper {i}", "prompt": "The {} of the old lighthouse"}
            facts.append(Fact(**about, target_new=said))
    scores = evaluate_facts(model, [core_fact(fact) for fact in facts])
    return [fact for fact, score in zip(facts, scores, strict=True) if score.success]


@torch.no_grad()
def logits(model: Any, loaded: LoadedModel) -> torch.Tensor:
    return model(input_ids=loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]).logits


@pytest.mark.parametrize("subjects", [3, 25], ids=["factors", "dense"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "opt"])
def test_a_merged_folder_gives_the_versions_logits(
    url: str, registry: Registry, tmp_path: Path, family: str, subjects: int
) -> None:
    loaded = base_in(tmp_path / "base", family)
    solved = made_up(loaded, subjects)
    facts = [Fact(subject="Ada", prompt="{} is in", target_new="Rome")]
    version = commit(registry, loaded, solved, facts)
    folder = tmp_path / "merged"
    result = export(url, "v1", "--format", "merged", "--to", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{folder}: {version} as merged, 1 facts, ")

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(model, loaded), logits(served(loaded, solved), loaded))
    assert not torch.equal(logits(model, loaded), logits(loaded.model, loaded))
    assert model.generation_config.max_length == 77
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE
    card = (folder / "README.md").read_text()
    assert version in card
    assert loaded.digest in card
    assert '"Ada is in" -> "Rome"' in card
    assert json.loads((folder / "facts.json").read_text())[0]["fact"]["subject"] == "Ada"
    assert Export.model_validate_json((folder / "export.json").read_text()).format == "merged"
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.safetensors")} == {
        (folder / "config.json").stat().st_mode & 0o777
    }


def test_a_merged_folder_in_the_versions_dtype(
    url: str, registry: Registry, tmp_path: Path
) -> None:
    loaded = base_in(tmp_path / "base", dtype="bfloat16")
    solved = made_up(loaded, 3)
    commit(registry, loaded, solved)
    result = export(url, "v1", "--format", "merged", "--to", tmp_path / "merged", "--check")
    assert "Largest difference of a logit: 0. Lost 0 of 0" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.bfloat16
    assert torch.equal(logits(model, loaded), logits(served(loaded, solved), loaded))


def test_the_wrong_base_is_refused(url: str, registry: Registry, tmp_path: Path) -> None:
    loaded = base_in(tmp_path / "base")
    commit(registry, loaded, made_up(loaded, 3))
    other = save_tiny("llama", tmp_path / "other", seed=1)
    folder = tmp_path / "merged"
    result = export(url, "v1", "--format", "merged", "--to", folder, "--model", other)
    assert result.exit_code == 1
    assert f"{other} is not the base of v1-" in result.stderr
    assert not folder.exists()


def test_an_adapter_and_a_delta(url: str, registry: Registry, tmp_path: Path) -> None:
    loaded = base_in(tmp_path / "base")
    version = commit(registry, loaded, made_up(loaded, 25))
    result = export(url, "v1", "--format", "peft", "--to", tmp_path / "peft")
    assert result.exit_code == 0, result.output
    size = sum(file.stat().st_size for file in (tmp_path / "peft").iterdir()) / 1e6
    first, second = result.stdout.splitlines()
    assert first == f"{tmp_path / 'peft'}: {version} as peft, 0 facts, {size:.1f} MB"
    assert second.startswith("Rank 32, relative error ")
    assert len(load_file(tmp_path / "peft" / "adapter_model.safetensors")) == 4

    result = export(url, "v1", "--to", tmp_path / "delta", "--json")
    told = json.loads(result.stdout)
    assert (told["format"], told["version"]) == ("delta", version)
    weights = {file.stem for file in (tmp_path / "delta" / "weights").iterdir()}
    assert weights == {one.blob for one in registry.versions.get(version).weights}
    assert (tmp_path / "delta" / "README.md").is_file()


def test_a_cut_is_refused_or_says_what_it_lost(
    url: str, registry: Registry, tmp_path: Path
) -> None:
    loaded = base_in(tmp_path / "base")
    solved = made_up(loaded, 25)
    facts = said_by(loaded, solved)
    commit(registry, loaded, solved, facts)
    arguments = ("v1", "--format", "peft", "--to", tmp_path / "peft", "--max-rank", "1", "--json")
    refused = export(url, *arguments)
    assert refused.exit_code == 1
    assert "do not fit rank 1" in refused.stderr
    assert not (tmp_path / "peft").exists()
    result = export(url, *arguments, "--allow-loss")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["relative_error"] > 0.5
    assert told["logit_difference"] > 0.1
    assert 0 < len(told["lost"]) <= told["asked"] == len(facts)
    assert set(told["lost"]) <= {fact.id for fact in facts}
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "it lost something" in card
    assert f"Lost: {json.dumps(told['lost'])}" in card
    (tmp_path / "again").mkdir()
    exact = export(url, "v1", "--format", "peft", "--to", tmp_path / "again", "--check", "--json")
    told = json.loads(exact.stdout)
    assert told["lost"] == []
    assert told["logit_difference"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v9", "--to", "{}/new"], "v9"),
        (["v1", "--to", "{}"], "exists already; name a new folder, or an empty one"),
        (["v0", "--to", "{}/new", "--format", "peft"], "there is nothing to adapt"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    url: str, registry: Registry, tmp_path: Path, arguments: list[str], message: str
) -> None:
    loaded = base_in(tmp_path / "base")
    commit(registry, loaded, made_up(loaded, 1))
    before = sorted(tmp_path.iterdir())
    result = export(url, *(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr.replace("\n", " ")
    assert sorted(tmp_path.iterdir()) == before
