"""Names in Redis: the job queue, generation streams, worker status and progress.

Redis is transport only; everything under these names may vanish at any time.
"""

from __future__ import annotations

from typing import Any

EDIT_QUEUE = "edits"
RUN_EDIT_JOB = "run_edit"
"""The only function name that an RQ worker of ours executes; its argument is the edit id."""
EDIT_JOB_OPTIONS: dict[str, Any] = {
    "timeout": -1,
    "result_ttl": 60,
    "failure_ttl": 3_600,
    "unique": True,
}
"""How an edit is enqueued, by whoever does it; the job id is the edit id."""

TOKENIZER_ARTEFACT = "tokenizer"
"""Name in the registry of the base model's tokenizer.json."""
UNKNOWN_TOKENS_ARTEFACT = "unknown-tokens"
"""Name in the registry of a JSON list: tokens of its that the base model has no embedding for."""

EDITOR_LOCK = "memit:editor"
REPORTER_LOCK = "memit:reporter"
GENERATE_STREAM = "memit:generate"
ENGINE_GROUP = "engines"
WORKER_KEYS = "memit:worker:*"
STARTING_KEYS = "memit:starting:*"
CHANGES_CHANNEL = "memit:changes"
"""Pub/sub nudge: an alias moved or an edit was accepted; a hint only, readers also poll."""


def output_stream(generation_id: str) -> str:
    """Stream of `GenerateEvent`s of one request, in field `event`.

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
