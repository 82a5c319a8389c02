"""Facts that the tests of the service post."""

from __future__ import annotations

from typing import Any


def eiffel(target: str = "Rome") -> dict[str, Any]:
    return {
        "subject": "The Eiffel Tower",
        "prompt": "{} is located in the city of",
        "target_new": target,
    }


def about(subject: str, target: str = "Rome") -> dict[str, Any]:
    return {"subject": subject, "prompt": "{} is in", "target_new": target}
