"""What all models of the service's answers share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Part of an answer; fields that a newer service adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
