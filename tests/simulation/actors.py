"""Who works with a registry: each is a script of small steps, begun again when it breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from contracts.edits import AcceptedEdit, EditEnd, EditRequest, EditState
from contracts.errors import Conflict, PreconditionFailed, Problem
from contracts.facts import Fact, LiveFact
from contracts.reports import FactReport, Report
from contracts.versions import ACTIVE, LayerWeights, VersionManifest, VersionStatus
from registry import Registry, finish_edit
from registry.activation import activation_epoch
from registry.errors import RecordDamaged
from registry.retention import Policy, consider, give_up

BASE = "b" * 64
TOWNS = ("Rome", "Oslo", "Lund")
Script = Callable[[Registry], Iterator[None]]


@dataclass
class Told:
    """What clients were told, so that it must hold from then on."""

    accepted: dict[str, AcceptedEdit] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    ends: dict[str, EditEnd] = field(default_factory=dict)


class Actors:
    """The scripts of one history; all chance is drawn from one place."""

    def __init__(self, draw: Random) -> None:
        self.told = Told()
        self._draw = draw
        self._clock = 0.0

    def _now(self) -> float:
        self._clock += 1.0
        return self._clock

    def begin(self, registry: Registry) -> Iterator[None]:
        """v0, named by `active`, as the first editor puts it."""
        if registry.versions.tip() < 0:
            registry.versions.commit(self._manifest(registry, 0, []))
            yield
        if registry.aliases.get(ACTIVE) is None:
            first = registry.versions.resolve("v0")
            try:
                registry.aliases.move(ACTIVE, first, 0)
            except PreconditionFailed:
                yield

    def client(self, key: str | None) -> Script:
        """Posts an edit until it is told that it is accepted; with a key that is the same edit."""
        subject = f"subject {self._draw.randrange(3)}"
        asked = EditRequest(
            facts=[Fact(subject=subject, prompt="{} is in", target_new=self._draw.choice(TOWNS))],
            activate=self._draw.choice([None, None, None, False]),
        )

        def script(registry: Registry) -> Iterator[None]:
            edit = AcceptedEdit(
                id=f"edit-{self._draw.getrandbits(80):020x}",
                request=asked,
                accepted_at=self._now(),
            )
            edit_id, _ = registry.edits.accept(edit, key, "body" if key else None)
            self.told.accepted[edit_id] = registry.edits.get(edit_id)
            if key is not None:
                assert self.told.by_key.setdefault(key, edit_id) == edit_id, "one key, one edit"
            yield

        return script

    def canceller(self, registry: Registry) -> Iterator[None]:
        """Cancels an edit."""
        yield
        edit_id = self._some_edit()
        if edit_id is None:
            return
        try:
            registry.edits.request_cancel(edit_id)
        except Conflict:
            return
        self.told.cancelled.add(edit_id)

    def operator(self, registry: Registry) -> Iterator[None]:
        """Moves `active` to any version."""
        yield
        record = registry.aliases.get(ACTIVE)
        version = registry.versions.by_seq(self._draw.randrange(registry.versions.tip() + 1))
        if record is None or version is None:
            return
        try:
            registry.aliases.move(ACTIVE, version, record.epoch)
        except (Conflict, PreconditionFailed):
            yield

    def reader(self, registry: Registry) -> Iterator[None]:
        """Reads what clients ask for; an end that was seen once must not change."""
        yield
        for edit_id in registry.edits.page(5)[0]:
            end = registry.edits.describe(edit_id) and registry.edits.end(edit_id)
            if end is not None:
                assert self.told.ends.setdefault(edit_id, end) == end, "an edit ends once"
        active = registry.aliases.get(ACTIVE)
        assert active is not None, "an alias that was there is there"
        yield
        registry.versions.describe(active.version)
        registry.ledger.live(active.version)

    def pruner(self, registry: Registry) -> Iterator[None]:
        """Removes all weights that no alias and not the newest version needs, however young."""
        yield
        policy = Policy(keep=1, older_than=0)
        try:
            considered = consider(registry, policy)
        except RecordDamaged:
            return
        yield
        for _ in give_up(registry, policy, considered):
            yield

    def editor(self, registry: Registry) -> Iterator[None]:
        """Runs what has not ended, as a worker does, which may be one of two by mistake."""
        yield
        registry.edits.place_lost()
        for edit_id in registry.edits.unfinished():
            yield from self._attempt(registry, edit_id)

    def _attempt(self, registry: Registry, edit_id: str) -> Iterator[None]:
        edits = registry.edits
        if finish_edit(registry, edit_id) is not None:
            return
        edit = edits.get(edit_id)
        active = registry.aliases.get(ACTIVE)
        assert active is not None
        epoch = activation_epoch(active, None, edit.request.activate, None)
        if not edits.start(edit_id, "worker", active.version, epoch):
            return
        yield
        if self._draw.random() < 0.05:
            self._end(registry, edit_id, EditState.FAILED)
            return
        made = self._solved(registry, edit, active.version)
        yield
        if not edits.begin_commit(edit_id, "worker", epoch, made):
            self._end(registry, edit_id, EditState.CANCELLED)
            return
        yield
        registry.versions.commit_as_next(made)
        yield
        finish_edit(registry, edit_id)

    def _end(self, registry: Registry, edit_id: str, state: EditState) -> None:
        problem = None
        if state is EditState.FAILED:
            problem = Problem(type="/problems/x", title="x", status=500, detail="x")
        try:
            registry.edits.finish(edit_id, EditEnd(state=state, at=self._now(), problem=problem))
        except Conflict:
            finish_edit(registry, edit_id)

    def _solved(self, registry: Registry, edit: AcceptedEdit, parent: str) -> VersionManifest:
        """z and weights kept by content, then the manifest: all that an edit puts before it."""
        [fact] = edit.request.facts
        seq = registry.versions.tip() + 1
        live = [one for one in registry.ledger.live(parent) if one.fact.key != fact.key]
        live.append(LiveFact(id=fact.id, fact=fact, edit_id=edit.id, since=seq, learned=True))
        artefacts = registry.artefacts(BASE)
        name = "solutions/" + "-".join(sorted(one.id for one in live))[:100]
        solved = artefacts.put_once(name, f"{self._draw.random()}".encode())
        rejected = self._draw.random() < 0.1
        return self._manifest(
            registry,
            seq,
            live,
            parent=parent,
            edit_id=edit.id,
            dry_run=edit.request.activate is False,
            added=[fact.id],
            status=VersionStatus.REJECTED if rejected else VersionStatus.COMMITTED,
            report=Report(facts=1, per_fact=[FactReport(id=fact.id, success=True, p_new=0.9)]),
            weights=[
                LayerWeights(
                    layer=0,
                    module="h.0",
                    blob=registry.blobs.put(b"weights " + solved),
                    kind="low_rank",
                    rank=1,
                )
            ],
        )

    def _manifest(
        self, registry: Registry, seq: int, live: list[LiveFact], **fields: Any
    ) -> VersionManifest:
        return VersionManifest(
            seq=seq,
            created_at=self._now(),
            base=BASE,
            model="tiny",
            dtype="float32",
            hparams={},
            live=registry.ledger.put_live(live),
            live_count=len(live),
            **fields,
        )

    def _some_edit(self) -> str | None:
        return self._draw.choice(sorted(self.told.accepted)) if self.told.accepted else None
