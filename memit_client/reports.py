"""Reports: how a version fares; shares are between 0 and 1, None where nothing was measured."""

from __future__ import annotations

from memit_client.model import Model


class Scores(Model):
    """Shares over some facts."""

    facts: int
    """Facts that were measured."""
    success: float | None = None
    """Whose greedy answer is `target_new`."""
    efficacy: float | None = None
    """With p(new) > p(true), of those with `target_true`."""
    paraphrase: float | None = None
    specificity: float | None = None
    chat_success: float | None = None
    """The facts' mean share of chats whose answer says `target_new`."""


class ChatReport(Model):
    """A chat in which a fact was asked, and what this version and the unedited base answered."""

    prompt: int | None = None
    """Which of its `chat_prompts`, from 0; None if it has none and was asked in one of ours."""
    success: bool | None = None
    answer: str | None = None
    base_success: bool | None = None
    base_answer: str | None = None
    reason: str | None = None
    """Why it could not be asked."""


class FactReport(Model):
    """How one fact of an edit fared."""

    id: str
    success: bool
    answer: str | None = None
    """How the answer to the prompt begins."""
    reason: str | None = None
    """Why it was not learned, and what to do about it."""
    p_new: float
    p_true: float | None = None
    chat_success: float | None = None
    """Share of its chats whose answer says `target_new`."""
    chats: list[ChatReport] = []


class NeighborReport(Model):
    """Another subject whose answer changed with a fact."""

    fact_id: str
    prompt: str
    before: str
    after: str
    says_target: bool


class Report(Scores):
    """A version on its edit's own facts, and its drift from the base model."""

    perplexity_ratio: float | None = None
    """On a control text, over the base model's."""
    kl: float | None = None
    """Mean KL(version || base) a token, in nats."""
    live_sample: Scores | None = None
    """Some of the live facts that the edit did not bring."""
    asked: int = 0
    base_chat_success: float | None = None
    """`chat_success` of the unedited base, in the same chats."""
    chats_asked: int = 0
    chat_reason: str | None = None
    """Why there is no `chat_success`."""
    measuring_prompts: float = 1.0
    neighbors_asked: int = 0
    neighbors: list[NeighborReport] = []
    per_fact: list[FactReport] = []
    """Empty in lists of edits and versions."""
    seconds: dict[str, float] = {}


class FullReport(Scores):
    """A version on all its live facts; fewer `facts` than `live` are a sample."""

    live: int
    missed: list[str] = []
    """Ids of facts with another answer; empty in lists of versions."""
    seconds: float
    at: float
    """Unix seconds."""
