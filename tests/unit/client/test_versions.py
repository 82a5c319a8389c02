"""Versions, aliases, probes, and versions that are taken away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from memit_client import (
    Conflict,
    ConnectionFailed,
    NotFound,
    PreconditionFailed,
    Unavailable,
    UnexpectedAnswer,
)
from registry.registry import Registry
from tests.unit.client.both_ways import Connect
from tests.unit.client.proxy import Cut, Own, proxy
from tests.unit.service.worker_peer import BASE, WEIGHTS, Editor, Engine, says

FACT = {"subject": "The Eiffel Tower", "prompt": "{} is located in the city of"}
BLOB = hashlib.sha256(WEIGHTS).hexdigest()

WHOLE = Cut(1_000_000)
"""More than there is: nothing is missing."""


@pytest.fixture
def version(client: Any, registry: Registry, editor: Editor) -> str:
    """Of one fact; its weights are one blob."""
    editor.run(client.edit([{**FACT, "target_new": "Rome"}]).id)
    return registry.versions.resolve("v1")


def test_versions(client: Any, registry: Registry, editor: Editor, version: str) -> None:
    made = client.get_version("v1")
    assert (made.id, made.live_count, made.aliases) == (version, 1, ["active"])
    assert (made.base, made.hparams, made.weights[0].blob) == (BASE, {"layers": [1]}, BLOB)
    assert client.get_version() == made
    assert [one.id for one in client.versions()] == [version, made.parent]
    ledger = client.ledger()
    assert (ledger.version, ledger.facts) == (version, list(client.facts()))
    with pytest.raises(NotFound, match="no version or alias 'v99'"):
        client.get_version("v99")


def test_all_pages_of_versions(client: Any, registry: Registry, editor: Editor) -> None:
    """103 of them, on two pages."""
    for _ in range(102):
        editor._commit([])
    assert [one.seq for one in client.versions()] == list(range(102, -1, -1))


def test_a_split_and_its_history(client: Any, version: str) -> None:
    base = client.get_version("v0").id
    split = client.set_alias("canary", {"v0": 9, "v1": 1})
    assert (split.version, split.split) == (base, {base: 9, version: 1})
    client.set_alias("canary", "v1")
    newest, first = client.alias_history("canary")
    assert (newest.epoch, newest.version, newest.split, newest.until) == (2, version, None, None)
    assert (first.epoch, first.split, first.until) == (1, split.split, newest.at)


def test_a_difference(client: Any, version: str) -> None:
    found = client.diff("v0", "v1")
    assert (found.a.version, found.b.version) == (client.get_version("v0").id, version)
    assert (found.added_count, found.superseded_count, found.retracted_count) == (1, 0, 0)
    assert [(one.subject, one.target_new) for one in found.added] == [("The Eiffel Tower", "Rome")]
    assert client.diff("v1", "v0").retracted == found.added


def test_aliases(client: Any, version: str) -> None:
    made = client.set_alias("stable", "v0")
    assert (made.name, made.epoch) == ("stable", 1)
    moved = client.set_alias("stable", "v1")
    assert (moved.epoch, moved.version) == (2, version)
    assert client.get_alias("stable") == moved
    assert {alias.name for alias in client.aliases()} == {"active", "stable"}
    with pytest.raises(PreconditionFailed, match="at epoch 2"):
        client.set_alias("stable", "v0", if_epoch=1)
    with pytest.raises(PreconditionFailed, match="there already"):
        client.set_alias("stable", "v0", if_epoch=0)
    assert client.set_alias("stable", "v0", if_epoch=2).epoch == 3
    assert client.get_alias().version == version


def test_a_rejected_version_gets_no_alias(client: Any, registry: Registry, editor: Editor) -> None:
    editor.run(client.edit([{**FACT, "target_new": "Rome"}]).id, reject=True)
    with pytest.raises(Conflict, match="rejected by its gate"):
        client.set_alias("active", "v1")


def test_probes(client: Any, registry: Registry, redis_url: str) -> None:
    assert client.health().status == "ok"
    with pytest.raises(Unavailable) as caught:
        client.ready()
    assert [error.field for error in caught.value.errors] == ["worker"]
    v0 = registry.versions.resolve("v0")
    engine = Engine(redis_url, says("."))
    with engine.running():
        engine.report(versions=[v0])
        ready = client.ready()
    assert (ready.version, ready.workers) == (v0, 1)


def test_a_download(client: Any, version: str, tmp_path: Path) -> None:
    made = client.download("active", tmp_path / "v1")
    assert made == tmp_path / "v1"
    assert (made / "weights" / f"{BLOB}.safetensors").read_bytes() == WEIGHTS
    assert json.loads((made / "manifest.json").read_text())["id"] == version
    (fact,) = json.loads((made / "facts.json").read_text())
    assert fact["fact"]["target_new"] == "Rome"
    assert [file.name for file in tmp_path.glob("v1*")] == ["v1"]
    with pytest.raises(FileExistsError):
        client.download("active", made)
    (tmp_path / "base").mkdir()
    assert sorted(file.name for file in client.download("v0", tmp_path / "base").iterdir()) == [
        "facts.json",
        "manifest.json",
    ]


def test_a_download_goes_on_where_it_broke_off(
    connect: Connect, url: str, version: str, tmp_path: Path
) -> None:
    """In one call while bytes come, however often it breaks; in another call after it gave up."""
    to = tmp_path / "v1"
    with proxy(url) as between:
        client = connect(between.url, max_retries=0)
        between.script = [WHOLE, Cut(100), Cut(200), Cut(0)]
        with pytest.raises(ConnectionFailed):
            client.download(version, to)
        assert not to.exists()
        client.download(version, to)
        ranges = [given for given in between.headers("range") if given]
        assert ranges == ["bytes=100-", "bytes=300-", "bytes=300-"]
        assert (to / "weights" / f"{BLOB}.safetensors").read_bytes() == WEIGHTS


def test_a_blob_that_was_changed_on_the_way(
    connect: Connect, url: str, version: str, tmp_path: Path
) -> None:
    to = tmp_path / "v1"
    with proxy(url) as between:
        client = connect(between.url)
        between.script = [WHOLE, Own(200, {}, WEIGHTS[:-1] + b"x")]
        with pytest.raises(UnexpectedAnswer, match=f"blob {BLOB} came as"):
            client.download(version, to)
        client.download(version, to)
    assert (to / "weights" / f"{BLOB}.safetensors").read_bytes() == WEIGHTS


def test_a_part_that_is_longer_than_the_blob(
    client: Any, version: str, tmp_path: Path, connect: Connect, url: str
) -> None:
    to = tmp_path / "v1"
    with proxy(url) as between:
        other = connect(between.url, max_retries=0)
        between.script = [WHOLE, Cut(100), Cut(0)]
        with pytest.raises(ConnectionFailed):
            other.download(version, to)
    (part,) = tmp_path.glob("v1.*.part")
    (part / "weights" / f"{BLOB}.safetensors").write_bytes(WEIGHTS + b"more")
    client.download(version, to)
    assert (to / "weights" / f"{BLOB}.safetensors").read_bytes() == WEIGHTS
