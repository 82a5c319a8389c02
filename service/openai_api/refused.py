"""What OpenAI's API and vLLM's take and this one does not: refused by name, or without effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

from contracts.refusal import refusal

WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    }
)
"""Taken and not read: they say how an answer is billed, cached or accounted for elsewhere."""


@dataclass(frozen=True)
class Refusal:
    """Why a parameter is refused, and the values that ask for nothing and are let through."""

    reason: str
    harmless: tuple[Any, ...] = ()


_TOOLS = "is not supported: the model calls no tools here"
_TEXT = "is not supported: answers are text"
_GUIDED = "must be {'type': 'text'}: answers are not bound to a JSON schema or a grammar"
_BEAMS = "is not supported: answers are drawn one by one; ask for n"

REFUSED = {
    "audio": Refusal(_TEXT),
    "best_of": Refusal(_BEAMS, (1,)),
    "chat_template": Refusal("is not supported: the model's own chat template is used"),
    "function_call": Refusal(_TOOLS, ("none",)),
    "functions": Refusal(_TOOLS, ([],)),
    "moderation": Refusal("is not supported: nothing is moderated here"),
    "modalities": Refusal(_TEXT, (["text"],)),
    "prediction": Refusal("is not supported: answers are not predicted ahead"),
    "prompt_logprobs": Refusal("is not supported: only tokens of the answer have logprobs", (0,)),
    "reasoning_effort": Refusal("is not supported: the model does not reason apart", ("none",)),
    "response_format": Refusal(_GUIDED, ({"type": "text"},)),
    "skip_special_tokens": Refusal("must be true: special tokens have no text here", (True,)),
    "store": Refusal("must be false: answers are not kept", (False,)),
    "structured_outputs": Refusal(_GUIDED),
    "suffix": Refusal("is not supported: a text is gone on with, not filled in", ("",)),
    "tool_choice": Refusal(_TOOLS, ("none", "auto")),
    "tools": Refusal(_TOOLS, ([],)),
    "use_beam_search": Refusal(_BEAMS, (False,)),
    "verbosity": Refusal("is not supported: say in the prompt how long an answer should be"),
    "web_search_options": Refusal("is not supported: nothing is looked up"),
}


def without_nulls(given: Any) -> Any:
    """Null is the same as left out."""
    if not isinstance(given, dict):
        return given
    return {name: value for name, value in given.items() if value is not None}


def supported_only(body: Any) -> Any:
    """The parameters of a body that are read here; null is the same as left out.

    Raises:
        ValidationError: it has some that are refused, each with its reason.
    """
    if not isinstance(body, dict):
        return body
    given = without_nulls(body)
    wrong = [
        InitErrorDetails(
            type=refusal(REFUSED[name].reason),
            loc=(name,),
            input=value,
        )
        for name, value in given.items()
        if name in REFUSED and value not in REFUSED[name].harmless
    ]
    if wrong:
        raise ValidationError.from_exception_data("refused", wrong)
    left_out = WITHOUT_EFFECT | REFUSED.keys()
    return {name: value for name, value in given.items() if name not in left_out}
