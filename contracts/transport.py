"""Names in Redis: the job queue, generation streams, worker status and progress.

Redis is transport only; everything under these names may vanish at any time.
"""

from __future__ import annotations

from typing import Any

from contracts.origin import Origin

EDIT_QUEUE = "edits"
RUN_EDIT_JOB = "run_edit"
"""Runs what waits to be edited; its argument is an edit's id, as is the job's own id."""
REBUILD_JOB = "rebuild"
"""Solves a version again whose blob is lost; its argument is the version's id.

Those two are the only function names that an RQ worker of ours executes.
"""

TOKENIZER_ARTEFACT = "tokenizer"
"""Name in the registry of the base model's tokenizer.json."""
CHAT_TEMPLATE_ARTEFACT = "chat-template"
"""Name in the registry of JSON: the tokenizer's chat template, which is null where it has none."""
UNKNOWN_TOKENS_ARTEFACT = "unknown-tokens"
"""Name in the registry of a JSON list: tokens of its that the base model has no embedding for."""

EDITOR_LOCK = "memit:editor"
REPORTER_LOCK = "memit:reporter"
GENERATE_STREAM = "memit:generate"
ENGINE_GROUP = "engines"
WORKER_KEYS = "memit:worker:*"
STARTING_KEYS = "memit:starting:*"
CHANGES_CHANNEL = "memit:changes"
"""Pub/sub nudge with the id of an edit or the name of an alias; a hint only, readers also poll."""
WANTED_VERSION_KEY = "memit:wanted-version"
"""Id of a version that is about to become active: engines load it. Expires."""


def output_stream(generation_id: str) -> str:
    """Stream of `EngineEvent`s of one request, in field `event`.

    The service creates it (one entry `{"open": "1"}`, with an expiry) before it sends the task,
    and deletes it when the client is gone; an engine writes with NOMKSTREAM and drops the request
    when the stream does not exist any more.
    """
    return f"memit:generation:{generation_id}"


def worker_key(worker_id: str) -> str:
    """JSON `WorkerStatus`, with a time to live of a few heartbeats."""
    return f"memit:worker:{worker_id}"


def starting_key(host: str, pid: int) -> str:
    """JSON `WorkerStarting`, with a time to live of a few seconds; deleted when it can edit."""
    return f"memit:starting:{host}:{pid}"


def progress_stream(edit_id: str) -> str:
    """Stream of JSON `Progress`, in field `progress`, capped and expiring."""
    return f"memit:progress:{edit_id}"


def edit_job(edit_id: str, origin: Origin | None = None) -> dict[str, Any]:
    """Arguments of RQ's `enqueue_call` for an edit; its job id is the edit's id."""
    options = {"timeout": -1, "result_ttl": 60, "failure_ttl": 3_600, "unique": True}
    meta = (origin or Origin()).model_dump(exclude_none=True)
    return {"func": RUN_EDIT_JOB, "args": [edit_id], "job_id": edit_id, "meta": meta, **options}


def rebuild_job(version: str) -> dict[str, Any]:
    """The same for a version whose blob is lost."""
    options = {"timeout": -1, "result_ttl": 0, "failure_ttl": 60, "unique": True}
    return {"func": REBUILD_JOB, "args": [version], "job_id": f"{REBUILD_JOB}-{version}", **options}


def rate_key(key_id: str, what: str, minute: int) -> str:
    """Requests or tokens of an API key in one minute since 1970; expires soon after."""
    return f"memit:rate:{key_id}:{what}:{minute}"


def webhook_lock(webhook_id: str) -> str:
    """Held by the process that sends an event of this webhook; expires soon after."""
    return f"memit:webhook:{webhook_id}"
