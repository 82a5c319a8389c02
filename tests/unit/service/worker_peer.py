"""What a worker does, as far as the service can see it: versions in the registry, status and
answers in Redis. There is no model; texts and reports are the test's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis as blocking

from contracts.edits import EditEnd
from contracts.errors import Problem
from contracts.facts import LiveFact
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateTask,
    StartEvent,
    TakenEvent,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from contracts.reports import FactReport, Report
from contracts.transport import ENGINE_GROUP, GENERATE_STREAM, output_stream, worker_key
from contracts.turns import TAKE
from contracts.versions import (
    ACTIVE,
    LayerWeights,
    VersionManifest,
    VersionStatus,
)
from contracts.workers import WorkerStatus
from registry.finish import finish_edit
from registry.registry import Registry

BASE = "ab" * 32
WEIGHTS = b"not read by the service " * 100


class Editor:
    """Runs accepted edits on a registry: every fact is learned at once."""

    def __init__(
        self,
        registry: Registry,
        model: str = "tiny",
        base: str = BASE,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        self.registry = registry
        self._lineage = {"model": model, "base": base, "hparams": hparams or {"layers": [1]}}

    def publish_base(self) -> str:
        """v0, the untouched model, named by `active`."""
        version = self._commit([], status=VersionStatus.COMMITTED)
        self.registry.aliases.move(ACTIVE, version, 0)
        return version

    def run(
        self,
        edit_id: str,
        *,
        reject: bool = False,
        missed: Collection[str] = (),
        dropped: Collection[str] = (),
        measured: Mapping[str, Any] | None = None,
        of_each: Mapping[str, Any] | None = None,
    ) -> EditEnd:
        """Take an accepted edit to its end; `measured` is more of its report.

        Args:
            of_each: more of what its report says of each fact.
            missed: ids of facts that are not learned.
            dropped: ids of facts that drop_failed leaves out.
        """
        edits = self.registry.edits
        accepted = edits.get(edit_id)
        active = self.registry.aliases.get(ACTIVE)
        assert active is not None
        explicit = accepted.request.base
        parent = explicit or active.version
        on_active = parent == active.version
        epoch = active.epoch if on_active or accepted.if_match else None
        assert edits.start(edit_id, "editor", parent, epoch)
        live = {fact.id: fact for fact in self.registry.ledger.live(parent)}
        for gone in accepted.request.retract:
            del live[gone]
        superseded = []
        facts = [fact for fact in accepted.request.facts if fact.id not in dropped]
        for fact in facts:
            for old in [one for one in live.values() if one.fact.key == fact.key]:
                superseded.append((old.id, fact.id))
                del live[old.id]
            live[fact.id] = LiveFact(
                id=fact.id,
                fact=fact,
                edit_id=edit_id,
                since=self.registry.versions.tip() + 1,
                learned=fact.id not in missed,
            )
        ids = [fact.id for fact in facts]
        per_fact = [
            FactReport(id=one, success=one not in missed, p_new=0.9, **(of_each or {}))
            for one in ids
        ]
        success = sum(one.success for one in per_fact) / len(ids) if ids else None
        assert edits.begin_commit(edit_id, "editor", epoch)
        self._commit(
            list(live.values()),
            status=VersionStatus.REJECTED if reject else VersionStatus.COMMITTED,
            dry_run=accepted.request.activate is False,
            parent=parent,
            edit_id=edit_id,
            added=ids,
            retracted=accepted.request.retract,
            superseded=superseded,
            dropped=list(dropped),
            report=Report(facts=len(ids), success=success, per_fact=per_fact, **(measured or {})),
        )
        end = finish_edit(self.registry, edit_id)
        assert end is not None
        return end

    def _commit(self, live: list[LiveFact], **fields: Any) -> str:
        blob = self.registry.blobs.put(WEIGHTS)
        weights = LayerWeights(layer=1, module="h.1.mlp.c_proj", blob=blob, kind="dense", rank=8)
        manifest = VersionManifest(
            seq=self.registry.versions.tip() + 1,
            created_at=time.time(),
            dtype="float32",
            **self._lineage,
            live=self.registry.ledger.put_live(live),
            live_count=len(live),
            weights=[weights] if live else [],
            **fields,
        )
        version = self.registry.versions.commit(manifest)
        assert version is not None
        return version


Script = Callable[["Engine", GenerateTask], None]


class Engine:
    """Takes generation tasks from Redis one by one and answers each as `script` says."""

    def __init__(self, url: str, script: Script, *, name: str = "worker-1") -> None:
        self.name = name
        self.tasks: list[GenerateTask] = []
        self.dropped: list[str] = []
        self._redis = blocking.Redis.from_url(url, decode_responses=True)
        self._script = script
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def emit(
        self, task: GenerateTask, event: StartEvent | TokenEvent | EndEvent | ErrorEvent
    ) -> bool:
        """Write an event; False if nobody waits for it any more."""
        written = self._redis.xadd(
            output_stream(task.id), {"event": event.model_dump_json()}, nomkstream=True
        )
        if written is None and task.id not in self.dropped:
            self.dropped.append(task.id)
        return written is not None

    def begin(self, task: GenerateTask) -> bool:
        return self.emit(task, StartEvent(id=task.id, version=task.version, worker=self.name))

    def finish(self, task: GenerateTask, tokens: int) -> bool:
        usage = Usage(prompt_tokens=len((task.prompt or "").split()), completion_tokens=tokens)
        return self.emit(task, EndEvent(version=task.version, finish_reason="length", usage=usage))

    def report(
        self,
        *,
        versions: list[str],
        ready: bool = True,
        seconds: int = 60,
        starts_per_second: float | None = None,
    ) -> None:
        """The heartbeat."""
        status = WorkerStatus(
            id=self.name,
            host="here",
            pid=1,
            started_at=time.time(),
            model="tiny",
            base=BASE,
            dtype="float32",
            device="cpu",
            ready=ready,
            edit_ready=ready,
            versions=versions,
            active=versions[-1] if versions else None,
            running=2,
            waiting=1,
            rss_bytes=3_000_000,
            starts_per_second=starts_per_second,
        )
        self._redis.set(worker_key(self.name), status.model_dump_json(), ex=seconds)

    def die(self) -> None:
        """The heartbeat stops and its key expires."""
        self._redis.delete(worker_key(self.name))

    def leave(self) -> None:
        """Take no more tasks."""
        self._over.set()

    @contextmanager
    def running(self) -> Iterator[Engine]:
        self._redis.xgroup_create(GENERATE_STREAM, ENGINE_GROUP, id="0", mkstream=True)
        self._thread.start()
        try:
            yield self
        finally:
            self.leave()
            self._thread.join()
            self._redis.close()

    def _loop(self) -> None:
        while not self._over.is_set():
            found: Any = self._redis.xreadgroup(
                ENGINE_GROUP, self.name, {GENERATE_STREAM: ">"}, count=1, block=50
            )
            for _, rows in found or []:
                for entry, _ in rows:
                    self._redis.xack(GENERATE_STREAM, ENGINE_GROUP, entry)
                    self._redis.xdel(GENERATE_STREAM, entry)
                    taken = TakenEvent(worker=self.name).model_dump_json()
                    for body in self._redis.eval(TAKE, 0, 1, taken):
                        task = GenerateTask.model_validate_json(body)
                        self.tasks.append(task)
                        self._script(self, task)


def says(*texts: str) -> Script:
    """Answers every task with these pieces of text."""

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        for text in texts:
            engine.emit(task, TokenEvent(text=text))
        engine.finish(task, len(texts))

    return script


def refuses(status: int, detail: str) -> Script:
    """Refuses every task before it starts."""

    def script(engine: Engine, task: GenerateTask) -> None:
        problem = Problem(type="/problems/refused", title="Refused", status=status, detail=detail)
        engine.emit(task, ErrorEvent(problem=problem))

    return script


def pieces(*texts: str, reason: str = "stop") -> Script:
    """Says these pieces in every choice of a task, each a token of one nat beside a likelier one.

    The prompt counts five tokens.
    """

    def script(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        for choice in range(task.sampling.n):
            for text in texts:
                engine.emit(task, TokenEvent(choice=choice, text=text, logprobs=_logprobs(text)))
            used = Usage(prompt_tokens=5, completion_tokens=len(texts))
            engine.emit(
                task,
                EndEvent(choice=choice, version=task.version, finish_reason=reason, usage=used),
            )

    def _logprobs(text: str) -> list[TokenLogprob]:
        top = [TokenLogprob(token=" Oslo", token_id=5, logprob=-0.5)]
        return [TokenLogprob(token=text, token_id=7, logprob=-1.0, top=top)]

    return script
