"""The ledger of a version as one document, and what an edit keeps of one that it was made from."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from contracts.facts import LiveFact
from contracts.ids import Digest, FactId, VersionId
from contracts.limits import (
    MAX_FACTS_PER_EDIT,
    MAX_HPARAM_ITEMS,
    MAX_HPARAMS,
    MAX_NAME_CHARS,
)
from contracts.reports import FullReport, Report, Scores

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]
_Scalar = bool | int | Annotated[float, Field(allow_inf_nan=False)] | Name | None
_HPARAM: TypeAdapter[Any] = TypeAdapter(
    _Scalar | Annotated[list[_Scalar], Field(max_length=MAX_HPARAM_ITEMS)]
)


def _plain(value: Any) -> Any:
    try:
        return _HPARAM.validate_python(value)
    except ValidationError:
        raise ValueError(
            f"must be a finite number, a text of at most {MAX_NAME_CHARS} characters, true, false, "
            f"null, or a list of at most {MAX_HPARAM_ITEMS} of them"
        ) from None


Hparam = Annotated[Any, AfterValidator(_plain)]
Hparams = Annotated[dict[Name, Hparam], Field(max_length=MAX_HPARAMS)]


LEDGER_EXAMPLE: dict[str, Any] = {
    "version": "v1-9f3c2a71b0de",
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "base": "ab" * 32,
    "dtype": "float32",
    "method": "memit",
    "hparams": {"layers": [2, 3, 4, 5, 6], "mom2_update_weight": 1000},
    "facts": [
        {
            "id": "fact-d6499c23b28132aa8c79",
            "fact": {
                "subject": "The Eiffel Tower",
                "prompt": "{} is located in the city of",
                "target_new": "Rome",
            },
            "edit_id": "edit-0123456789abcdef0123",
            "since": 1,
            "learned": True,
        }
    ],
    "report": {
        "facts": 1,
        "success": 1.0,
        "perplexity_ratio": 1.01,
        "per_fact": [{"id": "fact-d6499c23b28132aa8c79", "success": True, "p_new": 0.93}],
    },
    "full_report": {
        "facts": 1,
        "live": 1,
        "success": 1.0,
        "seconds": 0.2,
        "at": 1795377680.0,
    },
}
STANDING_EXAMPLE: dict[str, Any] = {
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "base": "ab" * 32,
    "dtype": "float32",
    "method": "memit",
    "version": "v1-9f3c2a71b0de",
    "live": 50,
    "facts": 50,
    "measured_by": "full_report",
    "success": 0.98,
    "perplexity_ratio": 1.01,
}


class Lineage(BaseModel):
    """What a version's weights are made with, besides its facts."""

    model_config = ConfigDict(frozen=True)

    model: Name = Field(
        description="name of the base model", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"]
    )
    base: Digest = Field(description="digest of the base model's weights", examples=["ab" * 32])
    dtype: Name = Field(examples=["float32"])
    method: Name = Field(description="editing method", examples=["memit"])


class VersionLedger(Lineage):
    """Everything that a version says, for a registry of another model or other hyperparameters."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [LEDGER_EXAMPLE]})

    version: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    hparams: Hparams = Field(
        description="hyperparameters by name, each a number, a text or a list of them",
        examples=[{"layers": [2, 3, 4, 5, 6], "mom2_update_weight": 1000}],
    )
    facts: list[LiveFact] = Field(
        max_length=MAX_FACTS_PER_EDIT, description="its live facts, sorted by id"
    )
    report: Report | None = Field(default=None, description="on its edit's facts")
    full_report: FullReport | None = Field(default=None, description="on all its live facts")

    @field_validator("report", "full_report")
    @classmethod
    def _finite(cls, report: Scores | None) -> Scores | None:
        for name, value in report or ():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number")
        return report


class Standing(Lineage, Scores):
    """How a version fares, in figures; those that nobody measured are null."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [STANDING_EXAMPLE]})

    version: VersionId = Field(examples=["v1-9f3c2a71b0de"])
    live: int = Field(description="its live facts; more than `facts`: not all were measured")
    measured_by: Literal["full_report", "report"] | None = Field(
        default=None,
        description="the report that the shares are from: on all live facts, or on those of the "
        "version's own edit",
        examples=["full_report"],
    )
    perplexity_ratio: float | None = Field(
        default=None, description="perplexity on the control text over the base's", examples=[1.01]
    )
    kl: float | None = Field(
        default=None, description="mean KL(version || base) per control token, in nats"
    )


class RebaseSource(BaseModel):
    """What an edit keeps of the version whose facts it was given."""

    model_config = ConfigDict(frozen=True)

    standing: Standing
    hparams: Hparams
    missed: list[FactId] = Field(description="facts that it was measured not to say")
    not_measured: list[FactId] = Field(description="facts of which neither of its reports speaks")
