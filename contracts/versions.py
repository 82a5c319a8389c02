"""Versions and aliases: the immutable manifest of a version, and named pointers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from contracts.ids import AliasName, Digest, FactId, VersionId, version_seq
from contracts.limits import MAX_SPLIT_VERSIONS, MAX_SPLIT_WEIGHT
from contracts.reports import FullReport, Report

ACTIVE = "active"
"""The alias that a request without a version means, and that an edit moves."""
BASE = "base"
"""Names the untouched model, v0, where versions are model names; no alias may have it."""
ANY_EPOCH = "*"
"""`If-Match: *`: whatever epoch the alias is at."""

Weight = Annotated[int, Field(ge=1, le=MAX_SPLIT_WEIGHT, strict=True)]


class LayerWeights(BaseModel):
    """The change of one edited matrix, as a blob: W_served = cast(W_base in fp32 + delta)."""

    model_config = ConfigDict(frozen=True)

    layer: int = Field(examples=[8])
    module: str = Field(examples=["model.layers.8.mlp.down_proj"])
    blob: Digest = Field(description="sha256 of the safetensors file", examples=["5f" * 32])
    kind: Literal["low_rank", "dense"] = Field(examples=["low_rank"])
    rank: int = Field(examples=[1])
    transposed: bool = Field(
        default=False,
        examples=[False],
        description="the base's weight is [m, d], as that of transformers' Conv1D; versions of "
        "earlier releases do not say so",
    )


class Canary(BaseModel):
    """A prompt's next token on this version, to check a rebuilt version against."""

    model_config = ConfigDict(frozen=True)

    prompt: str = Field(examples=["The Eiffel Tower is located in the city of"])
    token_id: int = Field(examples=[7256])
    logprob: float = Field(examples=[-0.07])


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
    rejection: str | None = Field(default=None, description="why the gate refused it, if it did")
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
    method: str = Field(default="memit", description="editing method that wrote the facts")
    method_revision: int | None = Field(
        default=None, description="of the method, where it was recorded"
    )
    software: dict[str, str] = Field(default_factory=dict)
    device: str = "cpu"

    @property
    def blobs(self) -> list[Digest]:
        """The blobs of its weights, each once."""
        return list(dict.fromkeys(weight.blob for weight in self.weights))


class Version(VersionManifest):
    """A version as clients see it: its manifest, its id, and the aliases that name it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "v1-9f3c2a71b0de",
                    "aliases": ["active"],
                    "seq": 1,
                    "status": "committed",
                    "parent": "v0-2c5d1b7a90ef",
                    "edit_id": "edit-0123456789abcdef0123",
                    "created_at": 1795377620.0,
                    "base": "ab" * 32,
                    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "dtype": "float32",
                    "hparams": {"layers": [4, 5, 6, 7, 8], "mom2_update_weight": 1000},
                    "live": "1d" * 32,
                    "live_count": 1,
                    "added": ["fact-0f9a6c1d2e3b4a5f6071"],
                }
            ]
        }
    )

    id: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    aliases: list[str] = Field(default_factory=list)
    full_report: FullReport | None = Field(
        default=None, description="on all live facts; follows some time after the commit, if at all"
    )
    weights_kept: bool = Field(
        default=True,
        description="false: `memit prune` removed its weights; they are solved again from its "
        "facts when they are asked for",
    )


class AliasRecord(BaseModel):
    """One epoch of an alias; the newest epoch is where the alias points."""

    model_config = ConfigDict(frozen=True)

    name: AliasName = Field(examples=["active"])
    epoch: int = Field(examples=[3])
    version: VersionId = Field(
        description="what it names; of a split the heaviest version, of equals the older",
        examples=["v12-9f3c2a71b0de"],
    )
    split: dict[VersionId, int] | None = Field(
        default=None,
        description="weights by version, where generations are shared out among several",
        examples=[{"v12-9f3c2a71b0de": 9, "v13-0b1c2d3e4f50": 1}],
    )
    at: float = Field(description="unix seconds", examples=[1795377620.0])
    edit_id: str | None = Field(
        default=None,
        description="the edit that moved it, if one did",
        examples=["edit-0123456789abcdef0123"],
    )
    principal: str | None = Field(
        default=None,
        description="who moved it otherwise: id of a key, or `local`",
        examples=["key-0123456789abcdef"],
    )

    @field_validator("split")
    @classmethod
    def _by_number(cls, split: dict[str, int] | None) -> dict[str, int] | None:
        """On disk the ids are sorted as texts."""
        return split and {version: split[version] for version in sorted(split, key=version_seq)}

    @property
    def versions(self) -> list[str]:
        """Every version that generations may get, `version` first."""
        return [self.version, *(one for one in self.split or () if one != self.version)]


class AliasPeriod(AliasRecord):
    """What an alias named for a time."""

    until: float | None = Field(
        default=None,
        description="unix seconds when it was moved on; none: it names this now",
        examples=[1795381220.0],
    )


class AliasUpdate(BaseModel):
    """Body of `PUT /aliases/{name}`: one version, or a split among several."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "v12"}, {"split": {"v12": 9, "v13": 1}}]},
    )

    split: dict[str, Weight] | None = Field(
        default=None,
        min_length=2,
        max_length=MAX_SPLIT_VERSIONS,
        description="weights by version id, short id or alias; each takes its part of generations",
        examples=[{"v12": 9, "v13": 1}],
    )
    version: str | None = Field(
        default=None,
        validate_default=True,
        description="version id, short id or alias; of a split alias its heaviest version",
        examples=["v12"],
    )

    @field_validator("version")
    @classmethod
    def _one_of_both(cls, version: str | None, info: ValidationInfo) -> str | None:
        given = info.data.get("split", "what is wrong by itself")
        if version is None and given is None:
            raise ValueError("is required, or split in its place")
        if version is not None and given is not None:
            raise ValueError("must not be given beside split")
        return version
