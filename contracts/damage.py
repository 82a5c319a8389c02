"""What a list cannot show: files of the registry that are damaged."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Damaged(BaseModel):
    """An item that is in a list but cannot be read."""

    model_config = ConfigDict(frozen=True)

    id: str | None = Field(
        description="of the edit or version; null where the lost file is what names it",
        examples=["edit-0123456789abcdef0123"],
    )
    file: str | None = Field(
        description="in the registry", examples=["edits/edit-0123456789abcdef0123/request.json"]
    )
    reason: str = Field(
        description="what is wrong, what the file is, and what to do",
        examples=["edits/edit-0123456789abcdef0123/request.json is damaged: it is empty"],
    )
