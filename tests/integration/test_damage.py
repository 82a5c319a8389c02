"""One damaged file of a real registry takes nothing with it that others can tell or compute.

A registry is made by a tiny model and real edits. Then one file is truncated, has one bit flipped,
is emptied or deleted, and this is seen: what the service answers, whether a worker starts, and how
the next edit ends. By default each file is damaged in one way and every third is repaired;
`make check-damage` tries all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from cli.embedded_redis import EmbeddedRedis
from contracts.edits import AcceptedEdit, EditRequest, EditState
from contracts.ids import new_edit_id
from contracts.settings import Settings
from contracts.versions import ACTIVE
from memit_core.progress import silent
from registry import FolderStore, Registry
from registry.checkup import examine
from registry.repair import repair
from tests.unit.memit_core.examples import HPARAMS
from tests.unit.service.conftest import Service
from tests.unit.worker.workshop import Workshop, fact

QUICK = replace(HPARAMS, v_num_grad_steps=2)
LISTS = ("/edits", "/versions", "/aliases", "/metrics", "/v1/models")


def ledger(registry: Registry, ref: str) -> str:
    return blob(registry.versions.get(registry.versions.resolve(ref)).live)


def weights(registry: Registry, ref: str) -> str:
    return blob(registry.versions.get(registry.versions.resolve(ref)).weights[0].blob)


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest}"


def edit_of(registry: Registry, ref: str) -> str:
    edit_id = registry.versions.get(registry.versions.resolve(ref)).edit_id
    assert edit_id is not None
    return edit_id


def pointer(registry: Registry, kind: str) -> str:
    """The first pointer of this kind."""
    [base] = registry.store.names("models")
    if kind.endswith(".json"):
        return f"models/{base}/{kind}"
    return f"models/{base}/{kind}/{registry.store.names(f'models/{base}/{kind}')[0]}"


def pointed(registry: Registry, kind: str) -> str:
    found = json.loads(registry.store.get(pointer(registry, kind)) or b"")
    return blob(found["blob"])


Find = Callable[[Registry], str]
FILES: dict[str, Find] = {
    "request of an old edit": lambda r: f"edits/{edit_of(r, 'v1')}/request.json",
    "step of an old edit": lambda r: f"edits/{edit_of(r, 'v1')}/0.json",
    "end of an old edit": lambda r: f"edits/{edit_of(r, 'v1')}/end.json",
    "place of an old edit": lambda _: "edits/by-seq/0.json",
    "place of the newest edit": lambda _: "edits/by-seq/1.json",
    "entry of v0": lambda _: "versions/by-seq/0.json",
    "entry of v1": lambda _: "versions/by-seq/1.json",
    "entry of the active version": lambda _: "versions/by-seq/2.json",
    "manifest of v0": lambda r: f"versions/{r.versions.resolve('v0')}.json",
    "manifest of v1": lambda r: f"versions/{r.versions.resolve('v1')}.json",
    "manifest of the active version": lambda r: f"versions/{r.versions.resolve('v2')}.json",
    "full report": lambda r: f"versions/{r.versions.resolve('v2')}.report.json",
    "old epoch of active": lambda _: "aliases/active/2.json",
    "newest epoch of active": lambda _: "aliases/active/3.json",
    "newest epoch of another alias": lambda _: "aliases/stable/1.json",
    "ledger of v1": lambda r: ledger(r, "v1"),
    "ledger of the active version": lambda r: ledger(r, "v2"),
    "weights of v1": lambda r: weights(r, "v1"),
    "weights of the active version": lambda r: weights(r, "v2"),
    "idempotency": lambda r: f"idempotency/{r.store.names('idempotency')[0]}",
    **{
        f"pointer to {kind}": lambda r, kind=kind: pointer(r, kind)  # type: ignore[misc]
        for kind in ("templates", "covariance", "z", "solutions", "tokenizer.json")
    },
    "pointer to the chat template": lambda r: pointer(r, "chat-template.json"),
    **{
        f"blob of {kind}": lambda r, kind=kind: pointed(r, kind)  # type: ignore[misc]
        for kind in ("templates", "covariance", "z", "solutions", "tokenizer.json")
    },
}
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "flipped": lambda data: flipped(data, len(data) // 2),
    "empty": lambda _: b"",
    "missing": lambda _: None,
}
LISTED = {
    # What lists say of it. What is not here is read from elsewhere, or not shown in lists.
    ("request of an old edit", "*"): "/edits",
    ("place of an old edit", "*"): "/edits",
    ("place of the newest edit", "truncated"): "/edits",
    ("place of the newest edit", "flipped"): "/edits",
    ("place of the newest edit", "empty"): "/edits",
}
"""(the file, how it is damaged) → the list that names it."""


UNSEEN = {
    "end of an old edit", "place of the newest edit", "full report", "idempotency",
    "newest epoch of active", "newest epoch of another alias",
}  # fmt: skip
"""Files that are there or not, as nothing else tells when they are gone; pointers are such too."""


ALL = os.environ.get("MEMIT_DAMAGE") == "all"
TRIED = [
    (name, how)
    for row, name in enumerate(FILES)
    for column, how in enumerate(DAMAGE)
    if ALL or column == row % len(DAMAGE)
]
REPAIRED = list(FILES) if ALL else list(FILES)[::3]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@dataclass
class Damaged:
    """A registry of which one file is damaged."""

    root: Path
    key: str
    redis: Redis
    url: str

    def workshop(self) -> Workshop:
        return Workshop(self.root, self.redis, QUICK)

    def serve(self) -> Service:
        given: dict[str, Any] = {"MEMIT_REDIS_URL": self.url, "home": self.root.parent}
        return Service(Settings(**given))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Path:
    """A registry of two edits of one fact each, the second active."""
    root = tmp_path_factory.mktemp("sound") / "registry"
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
        workshop = Workshop(root, redis, QUICK)
        for subject in ("Anna Keller", "Bruno Okafor"):
            edit = AcceptedEdit(
                id=new_edit_id(), request=EditRequest(facts=[fact(subject)]), accepted_at=1.0
            )
            workshop.registry.edits.accept(edit, f"key of {subject}")
            workshop.runner.run(edit.id)
        workshop.registry.aliases.move("stable", workshop.registry.versions.resolve("v1"), 0)
        assert workshop.reporter().report(workshop.stopping) is not None
    return root


@pytest.fixture
def damage(sound: Path, tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Damaged]]:
    with Redis.from_url(redis_url) as redis:

        def damaged(find: Find, how: str) -> Damaged:
            root = tmp_path / "registry"
            shutil.copytree(sound, root)
            key = find(Registry(FolderStore(root)))
            data = DAMAGE[how]((root / key).read_bytes())
            (root / key).unlink()
            if data is not None:
                (root / key).write_bytes(data)
            return Damaged(root, key, redis, redis_url)

        yield damaged


@pytest.mark.parametrize(("name", "how"), TRIED)
def test_one_damaged_file(damage: Callable[..., Damaged], name: str, how: str) -> None:
    damaged = damage(FILES[name], how)
    check_doctor(damaged, name, how)
    service = damaged.serve()
    try:
        check_lists(service.client, damaged, name, how)
        workshop = damaged.workshop()
        workshop.maker.prepare(silent)
        end = workshop.run([fact("Carla Lund")])
        assert end.state is EditState.COMMITTED, end.problem
        assert end.activated
        live = workshop.registry.ledger.live(workshop.active)
        assert {one.fact.subject for one in live} == {"Anna Keller", "Bruno Okafor", "Carla Lund"}
        assert workshop.active == end.version
        check_served(service.client, end.version or "")
    finally:
        service.stop()
        service.join()


def check_doctor(damaged: Damaged, name: str, how: str) -> None:
    """It names the file and nothing else, and changes nothing."""
    before = sorted(damaged.root.rglob("*"))
    found = [one.file for one in examine(Registry(FolderStore(damaged.root))).findings]
    unseen = how == "missing" and (name in UNSEEN or name.startswith("pointer"))
    assert found == ([] if unseen else [damaged.key])
    assert sorted(damaged.root.rglob("*")) == before


@pytest.mark.parametrize("name", REPAIRED)
def test_what_was_repaired_serves_and_is_edited(damage: Callable[..., Damaged], name: str) -> None:
    damaged = damage(FILES[name], "flipped")
    store = FolderStore(damaged.root)
    before = set(store.names("quarantine"))
    said = list(repair(Registry(store), examine(Registry(store)).findings))
    derived = [one for one in said if "quarantine/" in one]
    assert len(set(store.names("quarantine")) - before) >= len(derived)
    left = examine(Registry(store)).findings
    if name.startswith(("manifest", "ledger", "pointer", "blob of", "full report")):
        assert left == [], "put again, or made again when it is needed"
    workshop = damaged.workshop()
    for version in ("v1", "v2"):
        workshop.maker.rebuild(workshop.registry.versions.resolve(version))
    assert workshop.run([fact("Carla Lund")]).activated
    if name == "newest epoch of another alias":
        assert "aliases/stable/1.json is damaged" in said[-1]
    left = examine(Registry(store)).findings
    assert all(not one.derived for one in left), "all that is derived is there again"


def check_lists(client: httpx2.Client, damaged: Damaged, name: str, how: str) -> None:
    """Before any worker has mended anything."""
    for path in LISTS:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
    naming = LISTED.get((name, how), LISTED.get((name, "*")))
    for path, whole in (("/edits", 2), ("/versions", 3)):
        page = client.get(path).json()
        said = [one["file"] for one in page["damaged"]]
        assert said == ([damaged.key] if path == naming else [])
        gone = how == "missing" and name == "place of the newest edit"
        lost = how == "missing" and name == "entry of the active version"
        short = (path == "/edits" and gone) or (path == "/versions" and lost)
        assert len(page["items"]) + len(page["damaged"]) == whole - short, page


def check_served(client: httpx2.Client, version: str) -> None:
    facts = client.get("/facts").json()
    assert facts["version"] == version
    assert facts["total"] == 3
    assert client.get("/versions").json()["items"][0]["id"] == version
    assert client.get("/edits").json()["items"][0]["version"] == version


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
def test_an_alias_that_a_person_moved_waits_for_a_person(
    damage: Callable[..., Damaged], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only who moved it knows where; everything but `active` goes on, and a move mends it."""
    damaged = damage(by_hand, how)
    service = damaged.serve()
    try:
        for path in LISTS:
            assert service.client.get(path).status_code == 200
        for path in ("/aliases/active", "/facts", "/versions/active"):
            answer = service.client.get(path)
            assert answer.status_code == 503
            assert "aliases/active/4.json is damaged" in answer.json()["detail"]
        assert service.client.get("/facts?version=v1").json()["total"] == 1
        ready = service.client.get("/readyz").json()["errors"]
        assert any("aliases/active/4.json" in one["reason"] for one in ready)

        workshop = damaged.workshop()
        end = workshop.run([fact("Carla Lund")])
        assert end.state is EditState.FAILED
        assert end.problem is not None
        assert "aliases/active/4.json is damaged" in end.problem.detail

        body, headers = {"version": "v2"}, {"If-Match": '"4"'}
        moved = service.client.put("/aliases/active", json=body, headers=headers)
        assert moved.status_code == 200, moved.text
        assert workshop.run([fact("Carla Lund")]).state is EditState.COMMITTED
        history = service.client.get("/aliases/active/history").json()
        assert [one["epoch"] for one in history["items"]] == [6, 5, 3, 2, 1]
        assert [one["file"] for one in history["damaged"]] == ["aliases/active/4.json"]
    finally:
        service.stop()
        service.join()


def by_hand(registry: Registry) -> str:
    """`active` is rolled back by hand."""
    registry.aliases.move(ACTIVE, registry.versions.resolve("v1"), 3)
    return "aliases/active/4.json"
