"""Versions and aliases: the immutable manifest of a version, its report, and named pointers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import AliasName, Digest, FactId, VersionId


class FactReport(BaseModel):
    """How one fact of the edit fared on the version's served weights."""

    model_config = ConfigDict(frozen=True)

    id: FactId
    success: bool = Field(description="greedy answer starts with target_new")
    p_new: float = Field(description="exp of the mean log-probability of target_new's tokens")
    p_true: float | None = Field(default=None, description="the same for target_true, if given")


class Report(BaseModel):
    """Quality of a version on its edit's own facts, and its drift from the base model."""

    model_config = ConfigDict(frozen=True)

    facts: int = Field(description="facts of the edit that were measured", examples=[10])
    success: float | None = Field(
        default=None, description="share whose greedy answer starts with target_new", examples=[1.0]
    )
    efficacy: float | None = Field(
        default=None, description="share with p(new) > p(true), over facts with target_true"
    )
    paraphrase: float | None = Field(
        default=None, description="the same on paraphrase prompts, where given"
    )
    specificity: float | None = Field(
        default=None, description="share of neighborhood prompts with p(true) > p(new)"
    )
    perplexity_ratio: float | None = Field(
        default=None, description="perplexity on the control text over the base's", examples=[1.01]
    )
    kl: float | None = Field(
        default=None, description="mean KL(version || base) per control token, in nats"
    )
    per_fact: list[FactReport] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict, description="seconds a stage took")


class LayerWeights(BaseModel):
    """The change of one edited matrix, as a blob: W_served = cast(W_base in fp32 + delta)."""

    model_config = ConfigDict(frozen=True)

    layer: int
    module: str = Field(examples=["model.layers.8.mlp.down_proj"])
    blob: Digest = Field(description="sha256 of the safetensors file")
    kind: Literal["low_rank", "dense"]
    rank: int


class Canary(BaseModel):
    """A prompt's next token on this version, to check a rebuilt version against."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    token_id: int
    logprob: float


class VersionStatus(StrEnum):
    COMMITTED = "committed"
    REJECTED = "rejected"


class VersionManifest(BaseModel):
    """A version: immutable, content-addressed (its id ends in its digest).

    `live` is the digest of a JSON blob, a list of `LiveFact`; weights are a pure function of the
    base, the hparams and these facts.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    seq: int
    status: VersionStatus = VersionStatus.COMMITTED
    dry_run: bool = False
    parent: VersionId | None = None
    edit_id: str | None = None
    created_at: float = Field(description="unix seconds")
    base: Digest = Field(description="digest of the base model's weights")
    model: str = Field(description="name of the base model")
    dtype: str = Field(examples=["float32"])
    hparams: dict[str, Any]
    templates: Digest | None = Field(default=None, description="digest of the context templates")
    covariance: Digest | None = Field(default=None, description="digest of the covariance")
    live: Digest
    live_count: int
    added: list[FactId] = Field(default_factory=list)
    retracted: list[FactId] = Field(default_factory=list)
    superseded: list[tuple[FactId, FactId]] = Field(
        default_factory=list, description="(old, new) pairs"
    )
    dropped: list[FactId] = Field(
        default_factory=list, description="facts of the edit left out by drop_failed"
    )
    weights: list[LayerWeights] = Field(default_factory=list)
    report: Report | None = None
    canary: list[Canary] = Field(default_factory=list)
    software: dict[str, str] = Field(default_factory=dict)
    device: str = "cpu"


class Version(VersionManifest):
    """A version as clients see it: its manifest, its id, and the aliases that name it."""

    id: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    aliases: list[str] = Field(default_factory=list)


class AliasRecord(BaseModel):
    """One epoch of an alias; the newest epoch is where the alias points."""

    model_config = ConfigDict(frozen=True)

    name: AliasName = Field(examples=["active"])
    epoch: int = Field(examples=[3])
    version: VersionId = Field(examples=["v2-9f3c2a71b0de"])
    at: float = Field(description="unix seconds")
    edit_id: str | None = Field(default=None, description="the edit that moved it, if one did")


class AliasUpdate(BaseModel):
    """Body of `PUT /aliases/{name}`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": "v2"}]})

    version: str = Field(description="version id, short id or alias", examples=["v2"])
