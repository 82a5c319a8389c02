"""A registry that an earlier release wrote opens, serves and edits.

`registry_before_methods.tar.gz`: on the tiny Llama, v1 of two facts and v2, in which one of them is
another. Its manifests name no method.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from redis import Redis

from memit_core.evaluate import next_token
from tests.unit.worker.workshop import Workshop, fact
from worker.deltas import Deltas

CLOSE = 1e-4
FILE = Path(__file__).with_name("registry_before_methods.tar.gz")


@pytest.fixture
def older(registry_path: Path, redis_url: str) -> Workshop:
    with tarfile.open(FILE) as archive:
        archive.extractall(registry_path, filter="data")
    return Workshop(registry_path, Redis.from_url(redis_url))


def test_its_versions_answer_as_they_did(older: Workshop) -> None:
    deltas = Deltas(older.registry.blobs)
    for name in ("v1", "v2"):
        manifest = older.registry.versions.get(older.registry.versions.resolve(name))
        assert manifest.method == "memit"
        assert manifest.canary
        model = older.editor.model_with({w.module: deltas.read(w.blob) for w in manifest.weights})
        for canary in manifest.canary:
            token, logprob = next_token(model, canary.prompt)
            assert token == canary.token_id
            assert logprob == pytest.approx(canary.logprob, abs=1e-4)


def test_it_is_edited_on(older: Workshop) -> None:
    before = older.active
    assert before == older.registry.versions.resolve("v2")
    version = older.version([fact("Mount Elbrus", "Portugal")])
    manifest = older.registry.versions.get(version)
    assert manifest.parent == before
    assert older.active == version
    live = {one.fact.subject: one.fact.said for one in older.registry.ledger.live(version)}
    assert live == {"Anna Keller": "Geneva", "Martin Okafor": "Geneva", "Mount Elbrus": "Portugal"}
    (mine,) = manifest.added
    without = older.version([], retract=[mine])
    old, back = changes(older, before), changes(older, without)
    assert old.keys() == back.keys()
    for module, change in old.items():
        # Of another machine's rounding: what that release solved is solved anew by this one.
        assert (back[module] - change).norm() < CLOSE * change.norm()
    (mine,) = older.registry.versions.get(older.version([fact("Mount Elbrus", "Lisbon")])).added
    again = changes(older, older.version([], retract=[mine]))
    assert all(again[module].equal(change) for module, change in back.items())


def changes(shop: Workshop, version: str) -> dict[str, torch.Tensor]:
    """ΔW of a version by module path."""
    deltas, here = Deltas(shop.registry.blobs), torch.device("cpu")
    weights = shop.registry.versions.get(version).weights
    return {w.module: deltas.read(w.blob).matrix(here) for w in weights}
