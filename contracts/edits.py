"""Edits: what a client asks for, the steps an edit takes, and how it ends."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import Problem
from contracts.facts import Fact
from contracts.ids import Digest, EditId, FactId, VersionId
from contracts.ledgers import RebaseSource
from contracts.limits import MAX_FACTS_PER_EDIT
from contracts.reports import Report


class EditState(StrEnum):
    """Where an edit stands; the last four are final and exactly one of them is reached."""

    QUEUED = "queued"
    RUNNING = "running"
    COMMITTED = "committed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (EditState.QUEUED, EditState.RUNNING)


class Gate(BaseModel):
    """What a version must reach to be activated; a field left out takes the service's setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_success: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the edit's facts whose greedy answer must start with target_new",
        examples=[0.9],
    )
    min_efficacy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the edit's facts with target_true where p(new) > p(true)",
        examples=[0.9],
    )
    min_live_success: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the same as min_success, of a sample of the older live facts",
        examples=[0.9],
    )
    max_perplexity_ratio: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="perplexity on the control text over that of the base model",
        examples=[1.2],
    )


class EditOptions(BaseModel):
    """How facts are written, whatever they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mom2_update_weight: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="λ of the closed form: larger keeps more of the old memory",
        examples=[1000],
    )
    gate: Gate = Field(default_factory=Gate)
    activate: bool | None = Field(
        default=None,
        description="false: dry run, never activated; true with an explicit base needs If-Match",
    )
    drop_failed: bool = Field(
        default=False, description="solve once more without the facts that were not learned"
    )

    def method_options(self) -> dict[str, Any]:
        """What the edit asks of the editing method, by the method's names."""
        given = {"mom2_update_weight": self.mom2_update_weight}
        return {name: value for name, value in given.items() if value is not None}


class EditRequest(EditOptions):
    """Body of `POST /edits`: facts to add, facts to retract, and how."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "facts": [
                        {
                            "subject": "The Eiffel Tower",
                            "prompt": "{} is located in the city of",
                            "target_new": "Rome",
                        }
                    ]
                },
                {"retract": ["fact-0f9a6c1d2e3b4a5f6071"]},
            ]
        },
    )

    facts: list[Fact] = Field(
        default_factory=list, max_length=MAX_FACTS_PER_EDIT, description="facts to add"
    )
    retract: list[FactId] = Field(
        default_factory=list, max_length=MAX_FACTS_PER_EDIT, description="ids of facts to take back"
    )
    base: str | None = Field(
        default=None,
        description="version (id, short id or alias) to start from; by default what `active` names",
        examples=["v0"],
    )

    @model_validator(mode="after")
    def _not_empty(self) -> EditRequest:
        if not self.facts and not self.retract:
            raise ValueError("facts and retract are both empty: nothing to do")
        return self


class AcceptedEdit(BaseModel):
    """An accepted edit as the registry keeps it; immutable."""

    model_config = ConfigDict(frozen=True)

    id: EditId
    request: EditRequest
    accepted_at: float = Field(description="unix seconds")
    if_match: int | None = Field(
        default=None, description="epoch of `active` that activation is bound to"
    )
    rebased_from: RebaseSource | None = Field(
        default=None, description="the version of another registry whose facts these are"
    )
    principal: str | None = Field(
        default=None, description="who posted it: id of a key, or `local`; older edits have none"
    )


class StepKind(StrEnum):
    """A step in an edit's log."""

    RUNNING = "running"
    REQUEUED = "requeued"
    CANCEL_REQUESTED = "cancel_requested"
    COMMITTING = "committing"
    FAILING = "failing"


class EditStep(BaseModel):
    """One entry of an edit's append-only log; the log's order decides races."""

    model_config = ConfigDict(frozen=True)

    kind: StepKind
    at: float = Field(description="unix seconds")
    worker: str | None = None
    principal: str | None = Field(default=None, description="who asked, of CANCEL_REQUESTED")
    parent: VersionId | None = Field(default=None, description="the version this attempt starts on")
    active_epoch: int | None = Field(
        default=None,
        description="epoch of `active` that the activation is bound to; none: do not activate",
    )
    manifest: Digest | None = Field(
        default=None, description="blob of the manifest that is committed from this step on"
    )
    problem: Problem | None = Field(default=None, description="why it fails from this step on")


class EditEnd(BaseModel):
    """The one terminal state of an edit."""

    model_config = ConfigDict(frozen=True)

    state: EditState
    at: float = Field(description="unix seconds")
    version: VersionId | None = Field(
        default=None, description="the version it made, also if it was rejected"
    )
    activated: bool = False
    not_activated: str | None = Field(
        default=None, description="why `active` does not name the version, where it should"
    )
    problem: Problem | None = Field(default=None, description="why, unless it was committed")
    missed: list[FactId] = Field(default_factory=list, description="facts not learned")
    dropped: list[FactId] = Field(default_factory=list, description="facts left out by drop_failed")


class Progress(BaseModel):
    """How far a running edit is."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(
        description="prepare, templates, covariance, factors, z, insert or evaluate", examples=["z"]
    )
    done: int = Field(examples=[4])
    total: int = Field(examples=[10])
    loss: float | None = Field(
        default=None, description="mean loss over the facts being optimised", examples=[0.31]
    )
    eta_seconds: float | None = Field(
        default=None, description="seconds left in this stage", examples=[12.5]
    )
    at: float = Field(description="unix seconds", examples=[1795377600.0])


class Superseded(BaseModel):
    """A live fact that a newer one about the same subject and prompt replaced."""

    model_config = ConfigDict(frozen=True)

    old: FactId = Field(examples=["fact-60715f4a3b2e1d6c9a0f"])
    new: FactId = Field(examples=["fact-0f9a6c1d2e3b4a5f6071"])


class EditFact(BaseModel):
    """A fact of an edit, by id."""

    id: FactId = Field(examples=["fact-0f9a6c1d2e3b4a5f6071"])
    subject: str = Field(examples=["The Eiffel Tower"])
    target_new: str = Field(examples=["Rome"])


class Edit(BaseModel):
    """An edit as clients see it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "edit-0123456789abcdef0123",
                    "state": "running",
                    "accepted_at": 1795377600.0,
                    "started_at": 1795377601.0,
                    "attempts": 1,
                    "facts": [
                        {
                            "id": "fact-0f9a6c1d2e3b4a5f6071",
                            "subject": "The Eiffel Tower",
                            "target_new": "Rome",
                        }
                    ],
                    "progress": {"stage": "z", "done": 0, "total": 1, "at": 1795377602.0},
                }
            ]
        }
    )

    id: EditId = Field(examples=["edit-0123456789abcdef0123"])
    state: EditState
    accepted_at: float = Field(description="unix seconds", examples=[1795377600.0])
    started_at: float | None = Field(default=None, examples=[1795377601.0])
    ended_at: float | None = Field(default=None, examples=[1795377620.0])
    attempts: int = Field(default=0, description="how often a worker began it", examples=[1])
    cancel_requested: bool = False
    facts: list[EditFact] = Field(default_factory=list)
    retract: list[FactId] = Field(default_factory=list)
    base: str | None = None
    principal: str | None = Field(
        default=None,
        description="who posted it: id of a key, or `local`",
        examples=["key-0123456789abcdef"],
    )
    rebased_from: VersionId | None = Field(
        default=None,
        description="the version of another registry whose facts these are; "
        "`GET /edits/{id}/rebase` compares the two",
    )
    progress: Progress | None = None
    version: VersionId | None = Field(default=None, examples=["v1-9f3c2a71b0de"])
    activated: bool = False
    not_activated: str | None = Field(
        default=None,
        description="why a committed version that should be served is not; "
        "`PUT /aliases/active` serves it",
    )
    superseded: list[Superseded] = Field(default_factory=list)
    missed: list[FactId] = Field(default_factory=list)
    dropped: list[FactId] = Field(default_factory=list)
    report: Report | None = None
    problem: Problem | None = None
