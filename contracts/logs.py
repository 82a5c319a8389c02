"""Where the logs of a process are set up: one line a record on stderr, for people or as JSON.

Modules write by `logging.getLogger(__name__)`, so what libraries write goes the same way. Ids that
are bound by `structlog.contextvars` stand in every line of their request or edit.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from structlog.contextvars import merge_contextvars
from structlog.processors import JSONRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from contracts.plain import plain, plain_traceback
from contracts.redaction import Redaction

QUIET = ("httpx", "httpx2", "httpcore", "urllib3", "filelock")
"""Libraries that tell every request with its URL."""
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
_RESET = "\x1b[0m"

log = logging.getLogger(__name__)


def configure(
    level: str, layout: str, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Send everything that is logged in this process to `stream`, also what nobody caught.

    Args:
        level: the least that is shown.
        layout: `console` or `json`.
        secrets: never shown, wherever they stand.
        stream: by default stderr; `console` has colours where it is a terminal.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(layout, Redaction(secrets), colours=stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in list(root.manager.loggerDict):
        # Libraries bring handlers of their own: transformers, torch.
        library = logging.getLogger(name)
        if library.handlers:
            library.handlers.clear()
            library.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


class _WithoutTexts(ProcessorFormatter):
    """Errors among the arguments of a record are told without texts of clients."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = logging.makeLogRecord(record.__dict__)
            record.args = tuple(
                plain(one) if isinstance(one, BaseException) else one for one in record.args or ()
            )
        return super().format(record)


def _formatter(layout: str, redaction: Redaction, *, colours: bool) -> logging.Formatter:
    def redacted(_logger: WrappedLogger, _name: str, line: EventDict | str) -> Any:
        return redaction(str(line))

    lines = JSONRenderer(ensure_ascii=False) if layout == "json" else _Console(colours)
    return _WithoutTexts(
        foreign_pre_chain=[ExtraAdder(), merge_contextvars],
        processors=[_of_record, ProcessorFormatter.remove_processors_meta, lines, redacted],
    )


def _of_record(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """What every line has, first; then the ids, and the error last."""
    record: logging.LogRecord = event["_record"]
    event.pop("color_message", None)  # uvicorn's, the same again
    error = event.pop("exc_info", None)
    at = datetime.fromtimestamp(record.created, UTC)
    first = {
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": event.pop("event"),
    }
    last = {"exception": plain_traceback(error[1])} if error and error[1] is not None else {}
    return {**first, **event, **last}


class _Console:
    """`2026-11-25 09:00:00,000 INFO worker.main: loaded version_id=v1-9f3c2a71b0de`."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> str:
        at = datetime.fromisoformat(event.pop("timestamp")).astimezone()
        level, name = event.pop("level").upper(), event.pop("logger")
        said, error = event.pop("event"), event.pop("exception", None)
        if self._colours and level in _COLOURS:
            level = f"{_COLOURS[level]}{level}{_RESET}"
        clock = f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03}"
        fields = "".join(f" {key}={_shown(value)}" for key, value in event.items())
        return f"{clock} {level} {name}: {said}{fields}" + (f"\n{error}" if error else "")


def _shown(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text.isprintable() and text and " " not in text else repr(text)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("an unexpected error", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        log.critical("the thread %s ended", name, exc_info=args.exc_value)
