"""The table of OpenAI's parameters says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from service.openai_api.refused import REFUSED, WITHOUT_EFFECT
from service.openai_api.requests import ChatRequest, CompletionRequest

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
SECTION = PAGE.partition("\n## OpenAI's API\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_is_listed_with_its_message(name: str) -> None:
    passes = ", ".join(f"`{json.dumps(value)}`" for value in REFUSED[name].harmless)
    assert f"| `{name}` | {REFUSED[name].reason} | {passes} |" in SECTION


def test_what_is_taken_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", SECTION.partition("Refused, with 400")[0]))
    taken = CompletionRequest.model_fields.keys() | ChatRequest.model_fields.keys()
    assert taken | WITHOUT_EFFECT <= listed
