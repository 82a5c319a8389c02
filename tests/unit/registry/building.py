"""Small real records to fill a registry with, and the way of an edit as a worker walks it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from contracts.edits import AcceptedEdit, EditEnd, EditRequest, EditState
from contracts.errors import Conflict
from contracts.facts import Fact, LiveFact
from contracts.ids import new_edit_id
from contracts.reports import FactReport, Report
from contracts.versions import LayerWeights, VersionManifest, VersionStatus
from registry import Registry, finish_edit

BASE = "b" * 64


def fact(subject: str = "The Eiffel Tower", target: str = "Rome") -> Fact:
    return Fact(subject=subject, prompt="{} is located in the city of", target_new=target)


def accepted(subject: str = "The Eiffel Tower", **fields: Any) -> AcceptedEdit:
    request = EditRequest(facts=[fact(subject)])
    return AcceptedEdit(id=new_edit_id(), request=request, accepted_at=time.time(), **fields)


def live_fact(edit: AcceptedEdit, since: int = 1) -> LiveFact:
    brought = edit.request.facts[0]
    return LiveFact(id=brought.id, fact=brought, edit_id=edit.id, since=since, learned=True)


def manifest(registry: Registry, seq: int, **fields: Any) -> VersionManifest:
    """A manifest whose ledger is empty unless `live` names another."""
    plain = {
        "created_at": time.time(),
        "base": BASE,
        "model": "tiny",
        "dtype": "float32",
        "hparams": {"layers": [0], "mom2_update_weight": 1000.0},
        "live": registry.ledger.put_live([]),
        "live_count": 0,
    }
    return VersionManifest.model_validate({"seq": seq, **plain, **fields})


def with_v0(registry: Registry) -> str:
    """Commit the untouched model as v0 and let `active` name it; v0's id."""
    version = registry.versions.commit(manifest(registry, 0))
    assert version is not None
    registry.aliases.move("active", version, 0)
    return version


def edit_manifest(
    registry: Registry, edit: AcceptedEdit, seq: int, *, rejected: bool = False, **fields: Any
) -> VersionManifest:
    """What an edit of one fact makes: its ledger, one layer of weights, a report."""
    live = live_fact(edit, since=seq)
    weights = LayerWeights(
        layer=0,
        module="h.0.mlp.c_proj",
        blob=registry.blobs.put(f"delta of {edit.id}".encode()),
        kind="low_rank",
        rank=1,
    )
    measured = FactReport(id=live.id, success=not rejected, p_new=0.9)
    if rejected:
        fields |= {"status": VersionStatus.REJECTED, "rejection": "success 0.0 is under 0.5"}
    return manifest(
        registry,
        seq,
        edit_id=edit.id,
        live=registry.ledger.put_live([live]),
        live_count=1,
        added=[live.id],
        weights=[weights],
        report=Report(facts=1, per_fact=[measured]),
        **fields,
    )


def attempt(
    registry: Registry, edit_id: str, *, fails: bool = False, rejected: bool = False
) -> Iterator[None]:
    """A worker's attempt at an edit, as far as the registry sees it; pauses between its stages."""
    if finish_edit(registry, edit_id) is not None:
        return
    active = registry.aliases.get("active")
    assert active is not None
    if not registry.edits.start(edit_id, "worker", active.version, active.epoch):
        return
    yield
    if fails:
        end = EditEnd(state=EditState.FAILED, at=time.time())
        try:
            registry.edits.finish(edit_id, end)
        except Conflict:  # another attempt made the version meanwhile
            finish_edit(registry, edit_id)
        return
    if not registry.edits.begin_commit(edit_id, "worker", active.epoch):
        registry.edits.finish(edit_id, EditEnd(state=EditState.CANCELLED, at=time.time()))
        return
    yield
    edit = registry.edits.get(edit_id)
    version = None
    while version is None:
        seq = registry.versions.tip() + 1
        made = edit_manifest(registry, edit, seq, rejected=rejected, parent=active.version)
        version = registry.versions.commit(made)
    yield
    finish_edit(registry, edit_id)


def run(registry: Registry, edit_id: str, **how: bool) -> EditEnd:
    """The whole attempt at once; how the edit ended."""
    for _ in attempt(registry, edit_id, **how):
        pass
    end = registry.edits.end(edit_id)
    assert end is not None
    return end
