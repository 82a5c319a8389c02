"""What a worker says of itself every few seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import VersionId


class WorkerStatus(BaseModel):
    """A worker's heartbeat: it is alive while its key in Redis has not expired."""

    model_config = ConfigDict(frozen=True)

    id: str
    host: str
    pid: int
    started_at: float = Field(description="unix seconds")
    model: str
    base: str = Field(description="digest of the base model's weights")
    dtype: str
    device: str
    ready: bool = Field(description="the engine answers")
    edit_ready: bool = Field(description="context templates and covariance are at hand")
    versions: list[VersionId] = Field(description="versions it holds in memory")
    active: VersionId | None = Field(description="what it last saw `active` name")
    running: int = Field(description="generation rows in the batch")
    waiting: int = Field(description="generation requests taken but not yet in the batch")
    edit: str | None = Field(default=None, description="the edit being run")
    generated_tokens: int = 0
    rss_bytes: int = 0
