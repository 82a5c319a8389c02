"""No line of a log holds a secret, whatever wrote the line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

HIDDEN = "[hidden]"
ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
"""Variables whose values are secrets."""
HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
"""Variables of headers, as `name=value` by commas."""
SHORTEST = 6
"""A secret of fewer characters is not looked for: it may be a part of any word."""

_PATTERNS = (
    (re.compile(r"\b(memit_[0-9a-f]{4,})_[0-9a-f]{4,}"), rf"\1_{HIDDEN}"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), f"hf_{HIDDEN}"),
    # To the last @: a password that was not encoded may hold one.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@\"']*):[^\s\"']*@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(\b(?:api[_-]?key|access[_-]?token|token|password|secret)=)[^\s&\"',]+", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
)


class Redaction:
    """Hides what looks like a secret, and known ones wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """
        Args:
            secrets: known ones, beside those in `ENVIRONMENT` and `HEADERS`.
        """
        known = {*secrets, *(os.environ.get(name, "") for name in ENVIRONMENT)}
        pairs = [pair for name in HEADERS for pair in os.environ.get(name, "").split(",")]
        known.update(pair.partition("=")[2].strip() for pair in pairs)
        forms = {form for one in known if len(one) >= SHORTEST for form in _forms(one)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, line: str) -> str:
        """The line without its secrets."""
        if self._known is not None:
            line = self._known.sub(HIDDEN, line)
        for pattern, instead in _PATTERNS:
            line = pattern.sub(instead, line)
        return line


def _forms(secret: str) -> set[str]:
    """How it may stand in a line: as it is, in a URL, in JSON."""
    plain = {secret, unquote(secret)}
    return plain | {quote(one, safe="") for one in plain} | {json.dumps(one)[1:-1] for one in plain}
