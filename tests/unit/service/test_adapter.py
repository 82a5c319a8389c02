"""A version as a LoRA folder: peft opens it, and it computes what the version does."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from contracts.exports import ADAPTER_RANKS, LOSSLESS, Export
from contracts.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.mlp import mlp_matrices
from memit_core.weights import Dense, LowRank
from registry.registry import Registry
from service.adapter import DECOMPOSING
from tests.committed import CHANGED, commit, made_up, served
from tests.tiny_models import tiny_model
from tests.unit.memit_core.examples import loaded_tiny

FAMILIES = ["llama", "gpt2", "gemma3", "opt"]
LOGIT_TOLERANCE = 2e-5
"""Of the largest logit, float32: an adapter adds B A x to W x where the version has one matrix."""
TEXT = "Anna Keller was born in Geneva and works as an engineer"


def folder_of(client: httpx2.Client, to: Path, **params: Any) -> httpx2.Response:
    answer = client.get("/versions/v1/checkpoint", params={"format": "peft", **params})
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(to, filter="data")
    return answer


@torch.no_grad()
def logits(model: Any, loaded: LoadedModel) -> torch.Tensor:
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    return model(input_ids=ids).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("whole_mlp", [False, True], ids=["down", "whole MLP"])
@pytest.mark.parametrize("subjects", [3, 25, 40], ids=["factors", "dense", "full rank"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_versions_logits(
    client: httpx2.Client,
    registry: Registry,
    tmp_path: Path,
    family: str,
    subjects: int,
    whole_mlp: bool,
) -> None:
    """Also that peft has nothing to warn of (warnings are errors) but its own use of others."""
    loaded = loaded_tiny(family)
    matrices = list(mlp_matrices(loaded.model, loaded.structure, CHANGED[-1]))
    solved = made_up(loaded, subjects, paths=matrices if whole_mlp else ())
    kind = LowRank if subjects < 20 else Dense
    commit(registry, loaded, solved)
    folder_of(client, tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter").eval()

    ours, base = logits(served(loaded, solved), loaded), logits(loaded.model, loaded)
    within = LOGIT_TOLERANCE * ours.abs().max()
    assert (logits(model, loaded) - ours).abs().max() < within
    assert (ours - base).abs().max() > 1_000 * within
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A")
        for name, _ in model.named_modules()
        if name.endswith(".lora_A")
    }
    assert adapted == set(solved)
    assert {type(delta) for delta in solved.values()} == {kind}


def test_the_folder_is_what_vllm_and_sglang_ask_for(
    client: httpx2.Client, registry: Registry, tmp_path: Path
) -> None:
    loaded = loaded_tiny("llama")
    solved = made_up(loaded, 3)
    facts = [Fact(subject="Ada", prompt="{} is in", target_new="`Rome`")]
    version = commit(registry, loaded, solved, facts)
    answer = folder_of(client, tmp_path)
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"].endswith(f'"memit-{version}-peft.tar"')
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-memit-rank"] == "8"
    assert answer.headers["x-memit-relative-error"] == "0"
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8
    assert config["bias"] == "none"
    assert config["target_modules"] == ["down_proj"]
    assert config["layers_to_transform"] == list(CHANGED)
    assert config["base_model_name_or_path"] == "llama"
    assert config["fan_in_fan_out"] is False
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(solved)
    for path, delta in solved.items():
        assert isinstance(delta, LowRank)
        b, a = (tensors[f"base_model.model.{path}.lora_{side}.weight"] for side in "BA")
        assert torch.equal(b[:, :3], delta.left)
        assert torch.equal(a[:3], delta.right.T)
        assert (b[:, 3:].count_nonzero(), a[3:].count_nonzero()) == (0, 0)
    export = Export.model_validate_json((tmp_path / "export.json").read_text())
    assert (export.version, export.base, export.rank) == (version, loaded.digest, 8)
    assert json.loads((tmp_path / "manifest.json").read_text())["id"] == version
    assert json.loads((tmp_path / "facts.json").read_text())[0]["id"] == facts[0].id
    card = (tmp_path / "README.md").read_text()
    assert card.startswith('---\nbase_model: "llama"\nlibrary_name: peft\n')
    assert version in card
    assert '"Ada is in" -> "`Rome`"' in card


@pytest.mark.parametrize(
    ("family", "suffix", "transposed"), [("gpt2", "mlp.c_proj", True), ("opt", "fc2", False)]
)
def test_modules_are_named_so_that_no_other_is_meant(
    client: httpx2.Client,
    registry: Registry,
    tmp_path: Path,
    family: str,
    suffix: str,
    transposed: bool,
) -> None:
    loaded = loaded_tiny(family)
    commit(registry, loaded, made_up(loaded, 1))
    folder_of(client, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["target_modules"], config["fan_in_fan_out"]) == ([suffix], transposed)


@pytest.mark.parametrize(("subjects", "rank"), [(1, 1), (2, 8), (9, 16), (21, 32), (25, 32)])
def test_ranks_are_padded_up_to_one_that_vllm_takes(
    client: httpx2.Client, registry: Registry, tmp_path: Path, subjects: int, rank: int
) -> None:
    loaded = loaded_tiny("llama")
    commit(registry, loaded, made_up(loaded, subjects))
    answer = folder_of(client, tmp_path)
    assert int(answer.headers["x-memit-rank"]) == rank
    assert rank in ADAPTER_RANKS
    assert float(answer.headers["x-memit-relative-error"]) <= LOSSLESS


@pytest.mark.parametrize("subjects", [9, 25, 40], ids=["factors", "dense", "full rank"])
def test_a_cut_that_loses_is_refused_unless_it_is_wanted(
    client: httpx2.Client, registry: Registry, tmp_path: Path, subjects: int
) -> None:
    loaded = loaded_tiny("llama")
    solved = made_up(loaded, subjects)
    commit(registry, loaded, solved)
    params = {"format": "peft", "max_rank": 8}
    refused = client.get("/versions/v1/checkpoint", params=params)
    assert refused.status_code == 409
    assert "do not fit rank 8: the relative error would be" in refused.json()["detail"]
    answer = folder_of(client, tmp_path, max_rank=8, allow_loss=True)
    assert answer.headers["x-memit-rank"] == "8"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    errors = []
    for path, delta in solved.items():
        b, a = (tensors[f"base_model.model.{path}.lora_{side}.weight"] for side in "BA")
        exact = delta.matrix(torch.device("cpu")).double()
        best = torch.linalg.svdvals(exact)[8:].norm() / exact.norm()
        errors.append(float((b.double() @ a.double() - exact).norm() / exact.norm()))
        assert errors[-1] == pytest.approx(float(best), rel=1e-5)
    told = float(answer.headers["x-memit-relative-error"])
    assert told == pytest.approx(max(errors), rel=1e-2)
    assert "it lost something" in (tmp_path / "README.md").read_text()


def test_a_rank_that_vllm_has_not_is_given_where_it_is_needed(
    client: httpx2.Client, registry: Registry, tmp_path: Path
) -> None:
    """For peft, where any rank will do."""
    loaded = loaded_tiny("llama")
    commit(registry, loaded, made_up(loaded, 9))
    assert folder_of(client, tmp_path, max_rank=9).headers["x-memit-rank"] == "9"


def test_one_request_at_a_time_decomposes(client: httpx2.Client, registry: Registry) -> None:
    loaded = loaded_tiny("llama")
    for subjects in (3, 25):
        commit(registry, loaded, made_up(loaded, subjects))
    params = {"format": "peft"}
    with DECOMPOSING:
        assert client.get("/versions/v1/checkpoint", params=params).status_code == 200
        busy = client.get("/versions/v2/checkpoint", params=params)
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "10")
    assert client.get("/versions/v2/checkpoint", params=params).status_code == 200


def test_the_same_version_gives_the_same_bytes(client: httpx2.Client, registry: Registry) -> None:
    loaded = loaded_tiny("llama")
    commit(registry, loaded, made_up(loaded, 25))
    params = {"format": "peft"}
    first, second = (client.get("/versions/v1/checkpoint", params=params) for _ in range(2))
    assert first.content == second.content


def test_what_has_no_adapter_says_why(client: httpx2.Client, registry: Registry) -> None:
    commit(registry, loaded_tiny("llama"), {})
    base = client.get("/versions/v0/checkpoint", params={"format": "peft"})
    assert base.status_code == 409
    assert base.json()["detail"] == "this version is the base model: there is nothing to adapt"
    merged = client.get("/versions/v0/checkpoint", params={"format": "merged"})
    assert merged.status_code == 422
    (error,) = merged.json()["errors"]
    assert error["field"] == "format"
    assert "memit export v0-" in error["reason"]
    assert "--format merged" in error["reason"]
    rank = client.get("/versions/v0/checkpoint", params={"format": "peft", "max_rank": 0})
    assert rank.status_code == 422


def test_a_damaged_change_is_found_before_the_first_byte(
    client: httpx2.Client, registry: Registry
) -> None:
    loaded = loaded_tiny("llama")
    version = commit(registry, loaded, made_up(loaded, 3))
    digest = registry.versions.get(version).weights[1].blob
    (blob,) = registry.store.root.rglob(digest)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1])
    answer = client.get("/versions/v1/checkpoint", params={"format": "peft"})
    assert answer.status_code == 503
