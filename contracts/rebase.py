"""Rebase: one version's facts on another base model or other hyperparameters, and how both fare."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts.edits import EditOptions, EditState
from contracts.ids import EditId, FactId
from contracts.ledgers import LEDGER_EXAMPLE, STANDING_EXAMPLE, Hparam, Standing, VersionLedger


class RebaseRequest(EditOptions):
    """Body of `POST /rebase`: what `GET /versions/{ref}/ledger` of another service answered."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ledger": LEDGER_EXAMPLE}]})

    ledger: VersionLedger

    @field_validator("ledger")
    @classmethod
    def _not_empty(cls, ledger: VersionLedger) -> VersionLedger:
        if not ledger.facts:
            raise ValueError("holds no facts: nothing to do")
        return ledger


class HparamDifference(BaseModel):
    """A hyperparameter that is not the same in both; null where one side has none of this name."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(examples=["v_num_grad_steps"])
    source: Hparam = Field(examples=[25])
    target: Hparam = Field(examples=[20])


class RebaseComparison(BaseModel):
    """A rebased ledger in the version it came from and in the version that was made of it.

    Every fact of the ledger is in one of `both` (their number), `only_source`, `only_target`,
    `neither` and `not_measured`.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "edit_id": "edit-0123456789abcdef0123",
                    "state": "committed",
                    "facts": 50,
                    "source": STANDING_EXAMPLE,
                    "target": {
                        **STANDING_EXAMPLE,
                        "model": "HuggingFaceTB/SmolLM2-360M-Instruct",
                        "base": "cd" * 32,
                        "version": "v1-0b1c2d3e4f50",
                        "measured_by": "report",
                        "success": 1.0,
                    },
                    "hparams": [{"name": "v_num_grad_steps", "source": 25, "target": 20}],
                    "both": 49,
                    "only_target": ["fact-0f9a6c1d2e3b4a5f6071"],
                }
            ]
        },
    )

    edit_id: EditId = Field(examples=["edit-0123456789abcdef0123"])
    state: EditState = Field(description="of the edit", examples=["committed"])
    facts: int = Field(description="facts of the ledger", examples=[50])
    source: Standing = Field(description="as it was when its ledger was posted")
    target: Standing | None = Field(
        default=None, description="none until the edit has made a version"
    )
    hparams: list[HparamDifference] = Field(
        default_factory=list, description="that differ, by name; none before there is a target"
    )
    both: int = Field(default=0, description="facts that both say", examples=[47])
    only_source: list[FactId] = Field(
        default_factory=list, description="facts that only the source says"
    )
    only_target: list[FactId] = Field(
        default_factory=list, description="facts that only the target says"
    )
    neither: list[FactId] = Field(default_factory=list, description="facts that neither says")
    not_measured: list[FactId] = Field(
        default_factory=list, description="facts that were not measured in one of them, or in both"
    )
