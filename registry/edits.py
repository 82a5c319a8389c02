"""Edits: accepted once, logged step by step, ended exactly once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import lru_cache

from contracts.edits import AcceptedEdit, Edit, EditEnd, EditState, EditStep, StepKind
from contracts.errors import Conflict, NotFound, Problem
from contracts.ids import EDIT_ID, VersionId
from contracts.versions import VersionManifest
from registry import deciding
from registry.acceptance import Acceptance
from registry.describe import describe, end_of, running
from registry.errors import BlobDamaged, BlobMissing, RecordDamaged
from registry.recent import Recent
from registry.records import encode_record, read_record
from registry.sequence import SequenceLog
from registry.store import Store
from registry.versions import Versions

_REQUESTS_CACHED = 128
_LOGS_CACHED = 1024
_ENDS_KEPT = 2_048

logger = logging.getLogger(__name__)


class Edits:
    """Each edit is a folder: its request, its numbered steps, and at last its one end.

    The order of the steps decides how an edit ends: by the first of COMMITTING, CANCEL_REQUESTED
    and FAILING. After one of them the others are refused, and whoever comes next carries it out. So
    what one attempt does after its COMMITTING, no other one contradicts, though both are alive.
    """

    def __init__(self, store: Store, versions: Versions) -> None:
        self._store = store
        self._versions = versions
        self._accepted = Acceptance(store)
        self._request = lru_cache(maxsize=_REQUESTS_CACHED)(self._load)
        self._log = lru_cache(maxsize=_LOGS_CACHED)(self._open)
        self._ends = Recent[str, EditEnd](_ENDS_KEPT)
        self._unfinished: dict[str, None] = {}
        self._seen = -1
        self._looked_at = -1
        """By `place_lost`."""
        self._lock = threading.Lock()

    # acceptance

    def accept(
        self, edit: AcceptedEdit, idempotency_key: str | None = None, body_digest: str | None = None
    ) -> tuple[str, bool]:
        """Accept an edit: once this returns it will end, whatever dies meanwhile.

        With an idempotency key the first body that its principal sent with it wins; a replay gives
        the first edit's id, and completes its acceptance if that was cut short.

        Returns:
            The id of the edit that stands, and whether it is this one.

        Raises:
            InvalidRequest: the key was used before with another body.
            Conflict: another edit has this id.
            StorageError: the storage is full or broken.
        """
        return self._accepted.accept(edit, idempotency_key, body_digest)

    def known(
        self, idempotency_key: str, body_digest: str, principal: str | None = None
    ) -> str | None:
        """Id of the edit that came first with this key from this principal; None if it is new.

        Raises:
            InvalidRequest: it came with another body.
        """
        return self._accepted.known(idempotency_key, body_digest, principal)

    def exists(self, edit_id: str) -> bool:
        """Whether there is an edit of this id."""
        return EDIT_ID.fullmatch(edit_id) is not None and self._store.exists(
            f"edits/{edit_id}/request.json"
        )

    def get(self, edit_id: str) -> AcceptedEdit:
        """The edit as it was accepted.

        Raises:
            NotFound: there is no edit of this id.
            RecordDamaged: its request is unreadable.
        """
        if not EDIT_ID.fullmatch(edit_id):
            raise NotFound(f"no edit {edit_id[:100]!r}")
        return self._request(edit_id)

    def page(self, limit: int, before: int | None = None) -> tuple[list[str], int | None]:
        """Up to `limit` ids, newest first, of edits accepted before number `before`.

        Returns:
            The ids, and the `before` of the next page or None after the last.
        """
        return self._accepted.page(limit, before)

    def since(self, number: int) -> tuple[list[str], int]:
        """Ids of the edits accepted after `number` (-1: all), in order, and the newest number."""
        return self._accepted.since(number)

    def damaged(self, limit: int | None = None, before: int | None = None) -> list[RecordDamaged]:
        """What is wrong with the entries that `page` leaves out; by default of all."""
        return self._accepted.damaged(limit, before)

    def unplaced(self) -> list[str]:
        """Ids of the edits that are kept, have not ended and have no place in the order, sorted.

        Their entry is lost, or their acceptance was cut short before anybody was told of it.
        """
        placed = set(self._accepted.since(-1)[0])
        kept = (name for name in self._store.names("edits") if EDIT_ID.fullmatch(name))
        return [
            edit_id
            for edit_id in kept
            if edit_id not in placed
            and self.exists(edit_id)
            and not self._store.exists(_end_key(edit_id))
        ]

    def place_lost(self) -> list[str]:
        """Where entries of the order are lost, place anew what is not placed; the ids of that.

        It completes an acceptance, so it may be done at any time and by several at once. Each entry
        is looked at once.
        """
        tip = self._accepted.tip()
        lost = self.unplaced() if self.damaged(tip - self._looked_at, tip + 1) else []
        for edit_id in lost:
            self._accepted.place(edit_id)
        self._looked_at = tip
        return lost

    def unfinished(self) -> list[str]:
        """Ids of the edits that have not ended, in the order of acceptance."""
        with self._lock:
            new, self._seen = self._accepted.since(self._seen)
            self._unfinished.update(dict.fromkeys(new))
            ended = [edit for edit in self._unfinished if self._store.exists(_end_key(edit))]
            for edit_id in ended:
                del self._unfinished[edit_id]
            return list(self._unfinished)

    def count_unfinished(self) -> int:
        """How many edits have not ended."""
        return len(self.unfinished())

    def describe(self, edit_id: str) -> Edit:
        """The edit as clients see it, without its progress, which only Redis knows.

        Raises:
            NotFound: there is no edit of this id.
            RecordDamaged: its request or its end is unreadable.
        """
        edit, end = self.get(edit_id), self.end(edit_id)
        version = None if end is None else end.version
        try:
            manifest = None if version is None else self._versions.get(version)
        except (RecordDamaged, NotFound) as error:
            logger.error("%s is shown without its report: %s", edit_id, error)
            manifest = None
        return describe(edit, self.steps(edit_id), end, manifest)

    # the log of one edit

    def steps(self, edit_id: str) -> list[EditStep]:
        """The edit's steps so far, in order, without those that cannot be read.

        Raises:
            NotFound: not an edit id.
        """
        return self._log(edit_id).all()

    def damaged_steps(self, edit_id: str) -> list[RecordDamaged]:
        """What is wrong with the steps that `steps` leaves out."""
        return self._log(edit_id).damaged()

    def append(self, edit_id: str, step: EditStep, position: int) -> bool:
        """Append a step if it still has the number `position`: the caller saw all before it."""
        return self._log(edit_id).append(position, step)

    def start(
        self, edit_id: str, worker: str, parent: VersionId | None, active_epoch: int | None
    ) -> bool:
        """Log RUNNING; False if the edit has ended, or a cancel or a failure is decided.

        One that nobody carried out yet, because its worker died, is carried out here.
        """
        step = EditStep(
            kind=StepKind.RUNNING,
            at=time.time(),
            worker=worker,
            parent=parent,
            active_epoch=active_epoch,
        )
        if self._log_step(edit_id, step, unless=deciding.given_up):
            return True
        self._carry_out(edit_id)
        return False

    def begin_commit(
        self,
        edit_id: str,
        worker: str,
        active_epoch: int | None,
        manifest: VersionManifest | None = None,
    ) -> bool:
        """Log COMMITTING; False if the edit has ended, or a cancel or a failure is decided.

        Args:
            manifest: what is committed from then on, by whoever comes to it; its blobs are put.
        """
        step = EditStep(
            kind=StepKind.COMMITTING,
            at=time.time(),
            worker=worker,
            active_epoch=active_epoch,
            manifest=None if manifest is None else self._versions.keep(manifest),
        )
        return self._log_step(edit_id, step, unless=deciding.given_up)

    def decided(self, edit_id: str) -> VersionManifest | None:
        """What an attempt has begun to commit, for others to complete; None if none has."""
        digest = deciding.decided(self.steps(edit_id))
        try:
            return None if digest is None else self._versions.kept(digest)
        except (BlobDamaged, BlobMissing, RecordDamaged) as error:
            logger.error("what %s was to commit is lost, and is made again: %s", edit_id, error)
            return None

    def requeue(self, edit_id: str, worker: str) -> None:
        """Log REQUEUED: the attempt was given up and the edit waits again."""
        step = EditStep(kind=StepKind.REQUEUED, at=time.time(), worker=worker)
        self._log_step(edit_id, step, unless=lambda steps: not running(steps))

    # cancel and end

    def request_cancel(self, edit_id: str, principal: str | None = None) -> None:
        """Ask for the edit to be cancelled; one that no worker runs is cancelled at once.

        Args:
            principal: who asks.

        Raises:
            NotFound: there is no edit of this id.
            Conflict: it has ended otherwise, or is committing.
        """
        self.get(edit_id)
        step = EditStep(kind=StepKind.CANCEL_REQUESTED, at=time.time(), principal=principal)
        self._log_step(
            edit_id,
            step,
            unless=lambda steps: deciding.given_up(steps) or deciding.committing(steps),
        )
        if not running(self.steps(edit_id)) or deciding.failing(self.steps(edit_id)) is not None:
            self._carry_out(edit_id)
        end = self.end(edit_id)
        if end is not None:
            if end.state is not EditState.CANCELLED:
                raise Conflict(f"edit {edit_id} is {end.state}: it cannot be cancelled any more")
            return
        if deciding.committing(self.steps(edit_id)):
            raise Conflict(f"edit {edit_id} is committing: it cannot be cancelled any more")

    def cancel_requested(self, edit_id: str) -> bool:
        """Whether a cancel is in the log; one look at the disk when nothing is new."""
        return deciding.cancelled(self.steps(edit_id))

    def end(self, edit_id: str) -> EditEnd | None:
        """How the edit ended; None if it has not.

        Raises:
            NotFound: not an edit id.
            RecordDamaged: it is unreadable, and so is the version that it made.
        """
        end = self._ends.get(edit_id)
        if end is None:
            try:
                end = self.recorded_end(edit_id)
            except RecordDamaged as error:
                end = self._rebuilt_end(edit_id, error)
            if end is not None:
                self._ends.put(edit_id, end)
        return end

    def recorded_end(self, edit_id: str) -> EditEnd | None:
        """As `end`, but only what was written.

        Raises:
            RecordDamaged: it is unreadable.
        """
        return read_record(self._store, EditEnd, _end_key(edit_id))

    def finish(self, edit_id: str, end: EditEnd) -> EditEnd:
        """End the edit; the first end stands and is returned.

        Raises:
            Conflict: the edit made another version than `end` says, or one where `end` says none,
                or an attempt is committing it: only `finish_edit` can end it.
            ValueError: `end` is not a final state.
            StorageError: the storage is full or broken.
        """
        if not end.state.final:
            raise ValueError(f"{end.state} is not a final state")
        standing = self.end(edit_id)
        if standing is not None:
            return standing
        version = self._versions.of_edit(edit_id)
        made = end.state in (EditState.COMMITTED, EditState.REJECTED)
        if version != end.version or made is (version is None):
            raise Conflict(f"edit {edit_id} made version {version}: it cannot end as {end.state}")
        if not made:
            end = self._given_up_as(edit_id, end)
        if self._store.put_if_absent(_end_key(edit_id), encode_record(end)):
            self._ends.put(edit_id, end)
        return self.end(edit_id) or end

    def _rebuilt_end(self, edit_id: str, lost: RecordDamaged) -> EditEnd:
        """The end whose record is lost, from the version that the edit made, or from its steps."""
        logger.error("%s; how it ended is read off what it made", lost)
        version = self._versions.of_edit(edit_id)
        if version is not None:
            manifest = self._versions.get(version)
            moved = self._versions.made_active(version, edit_id)
            return end_of(version, manifest, manifest.created_at, moved)
        steps = self.steps(edit_id)
        at = steps[-1].at if steps else 0.0
        decided = deciding.ended_without_version(steps, at)
        if decided is not None:
            return decided
        problem = Problem(type="/problems/damaged", title="Damaged", status=500, detail=str(lost))
        return EditEnd(state=EditState.FAILED, at=at, problem=problem)

    def _given_up_as(self, edit_id: str, end: EditEnd) -> EditEnd:
        """The end without a version that the steps decide, which is `end` if none was decided yet.

        Raises:
            Conflict: an attempt is committing.
        """
        step = EditStep(kind=StepKind.FAILING, at=end.at, problem=end.problem)

        def decided(steps: list[EditStep]) -> bool:
            return deciding.given_up(steps) or self.decided(edit_id) is not None

        if end.state is EditState.FAILED:
            self._log_step(edit_id, step, unless=decided)
        steps = self.steps(edit_id)
        if not deciding.given_up(steps) and self.decided(edit_id) is not None:
            raise Conflict(f"edit {edit_id} is committing: it cannot end as {end.state}")
        return deciding.ended_without_version(steps, end.at) or end

    def _carry_out(self, edit_id: str) -> None:
        """End an edit whose cancel or failure is decided; nothing else."""
        if self.end(edit_id) is None and deciding.given_up(self.steps(edit_id)):
            self.finish(edit_id, EditEnd(state=EditState.CANCELLED, at=time.time()))

    def _log_step(
        self, edit_id: str, step: EditStep, unless: Callable[[list[EditStep]], bool]
    ) -> bool:
        """Append `step` after whatever is there; False if the edit ended or `unless` holds."""
        while self.end(edit_id) is None:
            seen, tip = self._log(edit_id).numbered()
            if unless([one for _, one in seen]):
                return False
            if self.append(edit_id, step, tip + 1):
                return True
        return False

    def _open(self, edit_id: str) -> SequenceLog[EditStep]:
        return SequenceLog(self._store, f"edits/{_checked(edit_id)}", EditStep)

    def _load(self, edit_id: str) -> AcceptedEdit:
        edit = read_record(self._store, AcceptedEdit, f"edits/{edit_id}/request.json")
        if edit is None and self._store.names(f"edits/{edit_id}"):
            raise RecordDamaged(f"edits/{edit_id}/request.json", "it is gone")
        if edit is None:
            raise NotFound(f"no edit {edit_id}")
        return edit


def _end_key(edit_id: str) -> str:
    return f"edits/{_checked(edit_id)}/end.json"


def _checked(edit_id: str) -> str:
    if not EDIT_ID.fullmatch(edit_id):
        raise NotFound(f"no edit {edit_id[:100]!r}")
    return edit_id
