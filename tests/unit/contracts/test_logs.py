"""One line a record, with its ids, and without secrets or texts of clients, whoever wrote it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.contextvars import bound_contextvars

from contracts import logs
from contracts.errors import FieldError, InvalidRequest
from contracts.plain import plain, plain_traceback
from contracts.redaction import HIDDEN, Redaction
from contracts.settings import Settings
from memit_core.errors import InvalidFact, NonFinite, OutOfMemory

KEY = f"memit_{'a1' * 8}_{'5e' * 32}"
Logged = Callable[..., list[dict[str, Any]]]
log = logging.getLogger("some.module")


@contextlib.contextmanager
def configured(layout: str, *secrets: str) -> Iterator[io.StringIO]:
    """What is logged meanwhile; afterwards all is as it was."""
    root, out = logging.getLogger(), io.StringIO()
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    logs.configure("INFO", layout, secrets, out)
    try:
        yield out
    finally:
        logging.captureWarnings(False)
        root.handlers[:], level, sys.excepthook, threading.excepthook = kept
        root.setLevel(level)


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    with configured("json") as written:
        yield written


def records(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def of_this_module(out: io.StringIO) -> list[dict[str, Any]]:
    """Threads of other tests in the process may log meanwhile."""
    return [record for record in records(out) if record["logger"] == log.name]


class Prompted(BaseModel):
    prompt: str
    count: int


def test_a_record_is_a_line_of_json_with_the_ids_of_its_request(out: io.StringIO) -> None:
    with bound_contextvars(request_id="req-1", key_id="key-2"):
        log.info("made %s", "v1", extra={"seconds": 0.25})
    log.debug("not shown at INFO")
    (record,) = of_this_module(out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    assert record == {
        "level": "info",
        "logger": "some.module",
        "event": "made v1",
        "request_id": "req-1",
        "key_id": "key-2",
        "seconds": 0.25,
    }


def test_an_exception_is_a_string_in_the_same_line(out: io.StringIO) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("failed")
    (record,) = of_this_module(out)
    assert record["event"] == "failed"
    assert record["exception"].startswith("Traceback (most recent call last):\n")
    assert record["exception"].endswith("KeyError: 'x'")


def test_for_people_it_is_as_it_always_was() -> None:
    with configured("console") as out, bound_contextvars(edit_id="edit-1"):
        log.warning("two\nlines", extra={"why": "a b", "forged": "x\n2026 INFO y: z"})
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    expected = stamp + (
        r" WARNING some\.module: two\nlines why='a b' forged='x\\n2026 INFO y: z' edit_id=edit-1\n"
    )
    assert re.fullmatch(expected, out.getvalue())


@pytest.mark.parametrize(("terminal", "coloured"), [(True, True), (False, False)])
def test_colours_are_for_terminals(terminal: bool, coloured: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    root = logging.getLogger()
    with configured("console"):
        logs.configure("INFO", "console", (), stream := Terminal())
        log.error("x")
        assert root.handlers[0].stream is stream  # type: ignore[attr-defined]
    assert ("\x1b[" in stream.getvalue()) == coloured


def test_libraries_log_through_it_too(out: io.StringIO) -> None:
    library = logging.getLogger("a_library")
    library.addHandler(own := logging.StreamHandler(io.StringIO()))
    library.propagate = False
    with configured("json") as second:
        library.warning("said")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", stacklevel=1)
    assert [one["logger"] for one in records(second)] == ["a_library", "py.warnings"]
    assert own not in library.handlers


def test_what_nobody_catches_is_a_record(out: io.StringIO) -> None:
    thread = threading.Thread(target=lambda: 1 / 0, name="heart")
    thread.start()
    thread.join()
    error = ValueError("nobody foresaw it")
    sys.excepthook(ValueError, error, None)
    in_thread, at_top = records(out)
    assert in_thread["event"] == "the thread heart ended"
    assert "ZeroDivisionError" in in_thread["exception"]
    assert at_top["exception"] == "ValueError: nobody foresaw it"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (f"asked with {KEY}!", f"asked with memit_{'a1' * 8}_{HIDDEN}!"),
        ("signed by whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"signed by whsec_{HIDDEN}"),
        ("at redis://:pa%2Fss@h:1/0", f"at redis://:{HIDDEN}@h:1/0"),
        ("at rediss://me:p@ss/w@h, later", f"at rediss://me:{HIDDEN}@h, later"),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {HIDDEN}"),
        ("GET /x?api_key=abc&a=1", f"GET /x?api_key={HIDDEN}&a=1"),
        ("hub says no to hf_abcdefghijklmnopqrst", f"hub says no to hf_{HIDDEN}"),
        ("key_id=key-a1a1 tokens=5 at http://h:80/p", "key_id=key-a1a1 tokens=5 at http://h:80/p"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(line: str, left: str) -> None:
    assert Redaction()(line) == left
    with configured("json") as out:
        log.error("%s", line, exc_info=ValueError(line))
        with bound_contextvars(asked=line):
            log.info("x")
    assert [one.get("asked", one["event"]) for one in records(out)] == [left, left]
    assert records(out)[0]["exception"] == f"ValueError: {left}"


@pytest.mark.parametrize("written", ['sec"r/et 1', "sec%22r%2Fet%201", r"sec\"r/et 1"])
def test_a_known_secret_is_hidden_however_it_is_written(written: str) -> None:
    assert Redaction(['sec"r/et 1'])(f"<{written}>") == f"<{HIDDEN}>"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_TOKEN", "odd-token-1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "tenant=a,x-key=odd-token-1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=odd-token-1"),
    ],
)
def test_the_environment_has_secrets(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert Redaction()("is odd-token-1 for a") == f"is {HIDDEN} for a"


def test_the_settings_know_their_secrets(tmp_path: Any) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    settings = Settings(redis_url="redis://u:in-url@h/0", redis_password_file=file)
    assert settings.secrets() == ["in-url", "p@ss/word"]
    assert settings.redis() == "redis://:p%40ss%2Fword@h/0"
    assert Settings(redis_url="redis://h", redis_password_file=tmp_path / "none").secrets() == []


def test_errors_are_told_without_what_clients_sent(out: io.StringIO) -> None:
    text = "a private prompt"
    errors: list[BaseException] = [
        InvalidFact(f"holds {text!r}", subject=text, field="prompt"),
        NonFinite("z", [text]),
        OutOfMemory("z", [text]),
        InvalidRequest(f"says {text}", errors=[FieldError(field="/facts/0", reason=text)]),
    ]
    try:
        Prompted.model_validate({"prompt": text, "count": text})
    except ValueError as error:
        errors.append(error)
    for error in errors:
        assert text in str(error)
        log.warning("lost: %s", error)
        outer = RuntimeError("outer")
        outer.__cause__ = error
        log.error("failed", exc_info=outer)
        log.error("failed", exc_info=ExceptionGroup("several", [error]))
    assert text not in out.getvalue()
    told = [one["event"] for one in records(out)]
    assert told[0::3] == [
        "lost: a fact cannot be written, because of its prompt",
        "lost: z is not finite for 1 subjects",
        "lost: out of memory at stage z",
        "lost: Invalid request: /facts/0",
        "lost: not valid: count (int_parsing)",
    ]


def test_a_traceback_is_as_pythons() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as failed:
        fail()
    assert plain(failed.value) == "outer"
    assert re.fullmatch(
        r"Traceback .*\nKeyError: 'inner'\n\nThe above exception was the direct cause of the "
        r"following exception:\n\nTraceback .*\nValueError: outer",
        plain_traceback(failed.value),
        re.DOTALL,
    )
