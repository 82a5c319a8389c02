"""What an exported version says of itself, and what its adapters may be like."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import Digest, VersionId

Format = Literal["delta", "peft", "merged"]
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM takes as its largest; an adapter's factors are padded with zeros up to one."""
LOSSLESS = 1e-6
"""Relative Frobenius error of a change up to which an adapter counts as the change itself: that
of float32 in W + ΔW, as ΔW is some percent of W."""
RANK_HEADER = "X-Memit-Rank"
ERROR_HEADER = "X-Memit-Relative-Error"


class Export(BaseModel):
    """`export.json` in an exported folder."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    format: Format
    version: VersionId
    base: Digest
    model: str
    dtype: str
    made_by: str = Field(description="release of this package")
    rank: int | None = Field(default=None, description="of an adapter, padding included")
    relative_error: float | None = Field(
        default=None,
        description="largest ‖ΔW - BA‖/‖ΔW‖ of an adapter's matrices, Frobenius norms, by what was "
        "left out; the factors' rounding to float32, some 1e-7, is not counted",
    )
