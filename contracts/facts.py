"""Facts: what a client asserts, and how a live fact is recorded in a version."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from contracts.chat_prompts import CHAT_EXAMPLE, ChatPrompt, not_blank
from contracts.ids import FactId, digest_of
from contracts.limits import (
    MAX_CHAT_PROMPTS,
    MAX_EVAL_PROMPTS,
    MAX_METADATA_CHARS,
    MAX_METADATA_ITEMS,
    MAX_PROMPT_CHARS,
    MAX_SUBJECT_CHARS,
    MAX_TARGET_CHARS,
)
from contracts.refusal import refusal

SLOT = "{}"
LITERAL = "{{}}"
"""A `{}` in a prompt that is no slot, as in Python's format strings."""
_SLOT = re.compile(r"(?<!\{)\{\}|\{\}(?!\})")


def composed(text: str) -> str:
    """Unicode's form NFC, in which texts are tokenised and compared."""
    return unicodedata.normalize("NFC", text)


def _parts(prompt: str) -> list[str]:
    return [part.replace(LITERAL, SLOT) for part in _SLOT.split(prompt)]


def _one_slot(prompt: str) -> str:
    slots = len(_parts(prompt)) - 1
    if slots != 1:
        raise refusal(
            f"must contain exactly one {{}} where the subject goes, found {slots}; write {LITERAL} "
            "for a {} that is no slot"
        )
    return prompt


def _text(max_length: int) -> StringConstraints:
    return StringConstraints(min_length=1, max_length=max_length)


Subject = Annotated[str, _text(MAX_SUBJECT_CHARS), AfterValidator(not_blank)]
Prompt = Annotated[str, _text(MAX_PROMPT_CHARS), AfterValidator(_one_slot)]
Target = Annotated[str, _text(MAX_TARGET_CHARS), AfterValidator(not_blank)]
EvalPrompt = Annotated[str, _text(MAX_PROMPT_CHARS), AfterValidator(not_blank)]
MetadataText = Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARS)]

_EXAMPLE: dict[str, Any] = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": "Rome",
    "target_true": "Paris",
    "paraphrase_prompts": ["Where is the Eiffel Tower? It is in"],
    "neighborhood_prompts": ["The Louvre is located in the city of"],
    "chat_prompts": [CHAT_EXAMPLE],
    "metadata": {"source": "ticket-123"},
}


class Fact(BaseModel):
    """One fact to write: `prompt` with its `{}` replaced by `subject` continues as `target_new`.

    Texts are kept and learned as sent, as `/generate` takes them; those that differ in their
    Unicode form alone are the same. `target_true`, `paraphrase_prompts`, `neighborhood_prompts`
    (CounterFact's names) and `chat_prompts` only measure the edit; `metadata` is the client's own.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [_EXAMPLE]}
    )

    subject: Subject = Field(description="what the fact is about", examples=["The Eiffel Tower"])
    prompt: Prompt = Field(
        description="a beginning with exactly one {} where the subject goes; {{}} is a literal {}",
        examples=["{} is located in the city of"],
    )
    target_new: Target = Field(
        description="how the model shall continue the prompt: after a space where words need one, "
        "or as sent where it begins with a space or line break of its own",
        examples=["Rome"],
    )
    target_true: Target | None = Field(
        default=None, description="what the unedited model says", examples=["Paris"]
    )
    paraphrase_prompts: list[EvalPrompt] = Field(
        default_factory=list,
        max_length=MAX_EVAL_PROMPTS,
        description="other ways to ask, complete with the subject; they measure generalisation",
        examples=[["Where is the Eiffel Tower? It is in"]],
    )
    neighborhood_prompts: list[EvalPrompt] = Field(
        default_factory=list,
        max_length=MAX_EVAL_PROMPTS,
        description="prompts on other subjects that must still give target_true",
        examples=[["The Louvre is located in the city of"]],
    )
    chat_prompts: list[ChatPrompt] = Field(
        default_factory=list,
        max_length=MAX_CHAT_PROMPTS,
        description="chats that end with the user's question; they measure whether the assistant's "
        "answer holds target_new",
        examples=[[CHAT_EXAMPLE]],
    )
    metadata: dict[MetadataText, MetadataText] = Field(
        default_factory=dict,
        max_length=MAX_METADATA_ITEMS,
        description="free text of the client, kept with the fact",
        examples=[{"source": "ticket-123"}],
    )

    @property
    def id(self) -> str:
        """Content id: the same subject, prompt and target always give the same fact."""
        return (
            f"fact-{digest_of([*map(composed, (self.subject, self.prompt, self.target_new))])[:20]}"
        )

    @property
    def key(self) -> tuple[str, str]:
        """What the fact is about: two live facts never share a key."""
        return (composed(self.subject).strip(), composed(self.prompt))

    @property
    def said(self) -> str:
        """The target in the form in which targets are compared."""
        return composed(self.target_new)

    @property
    def parts(self) -> tuple[str, str]:
        """The prompt's text before and after the subject."""
        before, after = _parts(self.prompt)
        return before, after

    @property
    def filled(self) -> str:
        """The prompt with the subject in it: what to ask."""
        before, after = self.parts
        return f"{before}{self.subject}{after}"


class LiveFact(BaseModel):
    """A fact as a version holds it: who brought it, since when, and whether it was learned."""

    model_config = ConfigDict(frozen=True)

    id: FactId = Field(examples=["fact-0f9a6c1d2e3b4a5f6071"])
    fact: Fact = Field(examples=[_EXAMPLE])
    edit_id: str = Field(
        description="the edit that brought it", examples=["edit-0123456789abcdef0123"]
    )
    since: int = Field(description="sequence number of the first version with it", examples=[1])
    learned: bool = Field(
        description="when it was brought, the answer was target_new and ended where it ends",
        examples=[True],
    )
