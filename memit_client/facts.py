"""Facts: to write, and as versions hold them."""

from __future__ import annotations

from typing import Any, Literal

from memit_client.model import Model
from memit_client.reports import FactReport


class ChatMessage(Model):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Fact(Model):
    """`prompt`, with `subject` in place of its `{}`, goes on as `target_new`.

    `target_true` and the further prompts only measure the edit; `metadata` is your own.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrase_prompts: list[str] = []
    neighborhood_prompts: list[str] = []
    chat_prompts: list[list[ChatMessage]] = []
    """Chats that end with a user's turn, in which the fact is asked."""
    metadata: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """What is posted: the fields that were given."""
        return self.model_dump(exclude_unset=True)


class LiveFact(Model):
    """A fact as a version holds it."""

    id: str
    fact: Fact
    edit_id: str
    """The edit that brought it."""
    since: int
    """Number of the first version with it."""
    learned: bool
    """Whether the answer was `target_new` when it was brought."""


class FactDetail(Model):
    """A fact, live or not, with what became of it."""

    id: str
    fact: Fact
    state: str
    """`live`, `retracted`, `superseded` or `absent`, in the version that was asked for."""
    edit_id: str
    version: str
    """The version that brought it."""
    learned: bool
    report: FactReport | None = None
    ended_by: str | None = None
    """The version that retracted or superseded it."""
    superseded_by: str | None = None
