"""The full report of a version: all its live facts, measured in the background after its commit.

It is preempted between any two forwards: at once by an edit on this worker and by a stop, for a
moment by generation. What was measured by then is kept, unless another version is due meanwhile.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from redis import Redis
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars

from contracts.reports import FullReport
from contracts.transport import REPORTER_LOCK
from contracts.versions import ACTIVE
from memit_core.edit import Editor
from memit_core.errors import Cancelled
from memit_core.evaluate import FactScore, evaluate_facts
from memit_core.progress import ProgressCallback
from registry.errors import RecordDamaged
from registry.registry import Registry
from worker.changes import Changes
from worker.core_fact import core_fact
from worker.deltas import Deltas
from worker.live_chats import LiveChats
from worker.measured_prompts import within_budget
from worker.openmp import release_threads
from worker.quality import sampled, tally

log = logging.getLogger(__name__)

SLICE_FACTS = 64
"""Facts that are measured together, and measured again if something else came first."""
PAUSE_SECONDS = 1.0
AFTER_FAILURE_SECONDS = 60.0
LOCK_SECONDS = 120.0
GENERATION_WAIT_SECONDS = 2.0
"""How long each forward waits while rows are generated; then it runs, or a report never came."""
GENERATION_POLL_SECONDS = 0.05


class FullReporter:
    """Measures one version at a time: what `active` names first, then the newest version."""

    def __init__(
        self,
        registry: Registry,
        editor: Editor,
        redis: Redis,
        deltas: Deltas,
        max_facts: int,
        max_context: int,
        changes: Changes,
        *,
        editing: Callable[[], bool],
        generating: Callable[[], bool],
    ) -> None:
        """Measure nothing yet.

        Args:
            max_facts: of a version with more live facts a sample is measured; 0: nothing is.
            max_context: tokens of a chat and its answer together.
            editing: whether an edit needs the device now.
            generating: whether rows are being generated now.
        """
        self._registry = registry
        self._editor = editor
        self._redis = redis
        self._deltas = deltas
        self._max_facts = max_facts
        self._poll = changes.timer()
        self._found: str | None = None
        self._editing = editing
        self._generating = generating
        # A fast tokenizer must not be used by two threads at once, and edits use the loaded one.
        self._tokenizer = copy.deepcopy(editor.loaded.tokenizer)
        self._version: str | None = None
        self._scores: dict[str, FactScore] = {}
        self._chats = LiveChats(editor.loaded, max_context)
        self._seconds = 0.0

    def keep_reporting(self, stopping: threading.Event) -> None:
        """Report until `stopping`; the body of a thread."""
        while not stopping.is_set():
            pause = PAUSE_SECONDS
            try:
                self.report(stopping)
            except (Cancelled, RedisError) as reason:
                log.debug("no full report now: %s", reason)
            except Exception:
                # It only describes a version: edits and generation go on without it.
                log.exception("a full report failed")
                pause = AFTER_FAILURE_SECONDS
            release_threads()
            stopping.wait(pause)

    def report(self, stopping: threading.Event) -> str | None:
        """Measure the version that is due and keep its report; its id, or None if none is due.

        Raises:
            Cancelled: it was preempted; the next call goes on from there.
            RedisError: another worker is at it, or Redis does not answer.
            RegistryError: the version or its weights cannot be read.
            StorageError: the storage is full or broken.
        """
        version = self._due()
        if version is None:
            return None
        with bound_contextvars(version_id=version):
            return self._report(version, self._preemptible(version, stopping))

    def _report(self, version: str, progress: ProgressCallback) -> str:
        progress("evaluate", 0, 1)
        # The lock saves work. That a report is put once makes two reporters harmless.
        with self._redis.lock(REPORTER_LOCK, timeout=LOCK_SECONDS, blocking=False) as lock:
            report = self._measure(version, progress, lock.reacquire)
            self._registry.full_reports.put(version, report)
        self._found = self._find_due()
        log.info("%s: measured %d of %d live facts", version, report.facts, report.live)
        return version

    def _due(self) -> str | None:
        """The version that lacks a report most, as the last look at the registry found it."""
        if self._poll.due():
            self._found = self._find_due()
        return self._found

    def _find_due(self) -> str | None:
        versions = self._registry.versions
        if self._max_facts == 0:
            return None
        for version in self._candidates():
            if self._registry.full_reports.exists(version):
                continue
            try:
                if versions.get(version).live_count > 0:
                    return version
            except RecordDamaged as error:
                log.warning("%s is not measured: %s", version, error)
        return None

    def _candidates(self) -> list[str]:
        """What `active` names, then the newest version, as far as that can be read."""
        versions = self._registry.versions
        found: list[str] = []
        with _logged():
            active = self._registry.aliases.get(ACTIVE)
            found += [] if active is None else active.versions
        with _logged():
            newest = versions.by_seq(versions.tip())
            found += [] if newest is None else [newest]
        return found

    def _preemptible(self, version: str, stopping: threading.Event) -> ProgressCallback:
        """A progress that lets everything else go first; raises Cancelled."""

        def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:  # noqa: ARG001
            if done == total:
                return  # no forward follows
            until = time.monotonic() + GENERATION_WAIT_SECONDS
            while True:
                if stopping.is_set() or self._editing() or self._due() != version:
                    raise Cancelled(f"something else comes before the full report of {version}")
                if not self._generating() or time.monotonic() > until:
                    return
                release_threads()
                stopping.wait(GENERATION_POLL_SECONDS)

        return progress

    def _measure(
        self, version: str, progress: ProgressCallback, after_slice: Callable[[], object]
    ) -> FullReport:
        """Scores of the version's live facts on its own view, those of an earlier call reused."""
        if version != self._version:
            self._version, self._scores, self._seconds = version, {}, 0.0
            self._chats.forget()
        manifest = self._registry.versions.get(version)
        live = {one.id: one.fact for one in self._registry.ledger.live(version)}
        facts = sampled(live, self._max_facts, version)
        solved = {weight.module: self._deltas.read(weight.blob) for weight in manifest.weights}
        model = replace(self._editor.model_with(solved), tokenizer=self._tokenizer)
        left = [fact_id for fact_id in facts if fact_id not in self._scores]
        for start in range(0, len(left), SLICE_FACTS):
            part, begun = left[start : start + SLICE_FACTS], time.monotonic()
            asked = [core_fact(facts[fact_id]) for fact_id in part]
            measured, _ = within_budget(model.tokenizer, asked)
            scores = evaluate_facts(model, measured, progress)
            self._scores.update(zip(part, scores, strict=True))
            self._seconds += time.monotonic() - begun
            after_slice()
        begun = time.monotonic()
        in_chats = self._chats.ask(model, list(solved), facts, progress, after_slice)
        self._seconds += time.monotonic() - begun
        return FullReport(
            **{**dict(tally(list(self._scores.values()))), "chat_success": in_chats},
            live=len(live),
            missed=sorted(fact_id for fact_id, score in self._scores.items() if not score.success),
            seconds=round(self._seconds, 3),
            at=time.time(),
        )


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except RecordDamaged as error:
        log.warning("what lacks a full report is not known: %s", error)
