"""The difference of two versions: which facts came and went, and how measured figures moved."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import FactId, VersionId
from contracts.ledgers import Lineage
from contracts.versions import VersionStatus

_SIDE: dict[str, Any] = {
    "version": "v1-9f3c2a71b0de",
    "status": "committed",
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "base": "ab" * 32,
    "dtype": "float32",
    "method": "memit",
    "live": 3,
}
_FACT: dict[str, Any] = {
    "id": "fact-0f9a6c1d2e3b4a5f6071",
    "subject": "The Louvre",
    "prompt": "{} is located in the city of",
    "target_new": "Bonn",
}
_OLD = {**_FACT, "id": "fact-d6499c23b28132aa8c79", "subject": "The Eiffel Tower"}
_NEW = {**_OLD, "id": "fact-60715f4a3b2e1d6c9a0f", "target_new": "Rome"}


class DiffSide(Lineage):
    """One of the two versions."""

    version: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    status: VersionStatus = Field(examples=["committed"])
    live: int = Field(description="its live facts", examples=[3])


class DiffFact(BaseModel):
    """A fact, in short."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_FACT]})

    id: FactId
    subject: str
    prompt: str
    target_new: str


class DiffSuperseded(BaseModel):
    """Two facts about the same subject and prompt."""

    model_config = ConfigDict(
        frozen=True, json_schema_extra={"examples": [{"old": _OLD, "new": _NEW}]}
    )

    old: DiffFact = Field(description="live in a alone")
    new: DiffFact = Field(description="live in b alone")


class DiffFigure(BaseModel):
    """A figure that was measured on both versions."""

    model_config = ConfigDict(frozen=True)

    report: Literal["report", "live_sample", "full_report"] = Field(
        description="where it is from: `report`, each version's on its own edit's facts; "
        "`live_sample` in that; `full_report`, on all live facts",
        examples=["full_report"],
    )
    name: str = Field(examples=["success"])
    a: float = Field(examples=[0.96])
    b: float = Field(examples=[0.98])
    difference: float = Field(description="b - a", examples=[0.02])


class VersionDiff(BaseModel):
    """What has to be done to the live facts of a for those of b, and what that did.

    The lists hold one page of the changes, at most `limit` of them together: first what was added,
    then superseded, then retracted, each by id.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "a": _SIDE,
                    "b": {**_SIDE, "version": "v2-0b1c2d3e4f50", "live": 4},
                    "same_base": True,
                    "unchanged": 2,
                    "added_count": 1,
                    "superseded_count": 1,
                    "retracted_count": 0,
                    "added": [_FACT],
                    "superseded": [{"old": _OLD, "new": _NEW}],
                    "figures": [
                        {
                            "report": "full_report",
                            "name": "success",
                            "a": 0.96,
                            "b": 0.98,
                            "difference": 0.02,
                        }
                    ],
                }
            ]
        },
    )

    a: DiffSide
    b: DiffSide
    same_base: bool = Field(
        description="both are made of the same base model; if not, facts are compared all the "
        "same, and figures of drift are each from its own base"
    )
    unchanged: int = Field(description="facts that are live in both")
    added_count: int = Field(description="on all pages")
    superseded_count: int = Field(description="on all pages")
    retracted_count: int = Field(description="on all pages")
    added: list[DiffFact] = Field(
        default_factory=list,
        description="live in b alone, and a has none of this subject and prompt",
    )
    superseded: list[DiffSuperseded] = Field(
        default_factory=list, description="of one subject and prompt, another in b than in a"
    )
    retracted: list[DiffFact] = Field(
        default_factory=list,
        description="live in a alone, and b has none of this subject and prompt",
    )
    figures: list[DiffFigure] = Field(
        default_factory=list, description="those that both versions have"
    )
    next_cursor: str | None = Field(
        default=None,
        description="there are more changes: give it as `cursor` for the next page",
        examples=["WyJjaGFuZ2VzIiwidjEt"],
    )
