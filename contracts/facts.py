"""Facts: what a client asserts, and how a live fact is recorded in a version."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)

from contracts.ids import FactId, digest_of
from contracts.limits import (
    MAX_EVAL_PROMPTS,
    MAX_METADATA_CHARS,
    MAX_METADATA_ITEMS,
    MAX_PROMPT_CHARS,
    MAX_SUBJECT_CHARS,
    MAX_TARGET_CHARS,
)


def _nfc(text: object) -> object:
    # Before the lengths are checked: NFC may change them, and what is kept must pass again.
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


def _one_slot(prompt: str) -> str:
    slots = prompt.count("{}")
    if slots != 1:
        raise ValueError(f"must contain exactly one {{}} where the subject goes, found {slots}")
    return prompt


def _text(max_length: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=max_length)


Subject = Annotated[str, _text(MAX_SUBJECT_CHARS), BeforeValidator(_nfc)]
Prompt = Annotated[str, _text(MAX_PROMPT_CHARS), AfterValidator(_one_slot), BeforeValidator(_nfc)]
Target = Annotated[str, _text(MAX_TARGET_CHARS), BeforeValidator(_nfc)]
EvalPrompt = Annotated[str, _text(MAX_PROMPT_CHARS)]
MetadataText = Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARS)]

_EXAMPLE: dict[str, JsonValue] = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": "Rome",
    "target_true": "Paris",
    "paraphrase_prompts": ["Where is the Eiffel Tower? It is in"],
    "neighborhood_prompts": ["The Louvre is located in the city of"],
    "metadata": {"source": "ticket-123"},
}


class Fact(BaseModel):
    """One fact to write: `prompt` with its `{}` replaced by `subject` continues as `target_new`.

    Text is kept in Unicode NFC with outer whitespace removed. `target_true`,
    `paraphrase_prompts` and `neighborhood_prompts` only measure the edit (CounterFact's names);
    `metadata` is the client's own.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [_EXAMPLE]}
    )

    subject: Subject = Field(description="what the fact is about", examples=["The Eiffel Tower"])
    prompt: Prompt = Field(
        description="a beginning with exactly one {} where the subject goes",
        examples=["{} is located in the city of"],
    )
    target_new: Target = Field(
        description="how the model shall continue the prompt", examples=["Rome"]
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
    metadata: dict[MetadataText, MetadataText] = Field(
        default_factory=dict,
        max_length=MAX_METADATA_ITEMS,
        description="free text of the client, kept with the fact",
        examples=[{"source": "ticket-123"}],
    )

    @property
    def id(self) -> str:
        """Content id: the same subject, prompt and target always give the same fact."""
        return f"fact-{digest_of([self.subject, self.prompt, self.target_new])[:20]}"

    @property
    def key(self) -> tuple[str, str]:
        """What the fact is about: two live facts never share a key."""
        return (self.subject, self.prompt)


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
        description="greedy answer to the prompt started with target_new when it was brought",
        examples=[True],
    )
