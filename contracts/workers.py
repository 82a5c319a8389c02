"""What a worker says of itself every few seconds."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from contracts.edits import Progress
from contracts.ids import VersionId


class WorkerStarting(BaseModel):
    """A worker on its way to edit; there from its first step, before it has a `WorkerStatus`."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "host": "gpu-1",
                    "pid": 4711,
                    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "progress": {
                        "stage": "covariance",
                        "done": 45,
                        "total": 100,
                        "at": 1795377620.0,
                    },
                }
            ]
        },
    )

    host: str
    pid: int
    model: str
    progress: Progress = Field(
        description="stages: fetch model, load model, templates, covariance, factors"
    )

    @property
    def doing(self) -> str:
        """For people: stage, share and time left, such as `covariance 45%, 0:00:40 left`."""
        at = self.progress
        share = f" {at.done / at.total:.0%}" if at.done else ""
        seconds = round(at.eta_seconds or 0)
        left = f", {timedelta(seconds=seconds)} left" if seconds else ""
        return f"{at.stage}{share}{left}"


class WorkerStatus(BaseModel):
    """A worker's heartbeat: it is alive while its key in Redis has not expired."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "gpu-1-4711",
                    "host": "gpu-1",
                    "pid": 4711,
                    "started_at": 1795377600.0,
                    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "base": "ab" * 32,
                    "dtype": "bfloat16",
                    "device": "cuda",
                    "ready": True,
                    "edit_ready": True,
                    "versions": ["v0-2c5d1b7a90ef", "v1-9f3c2a71b0de"],
                    "active": "v1-9f3c2a71b0de",
                    "running": 3,
                    "waiting": 0,
                    "generated_tokens": 51200,
                    "starts_per_second": 2.5,
                    "rss_bytes": 1500000000,
                    "said_at": 1795377620.0,
                }
            ]
        },
    )

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
    advice: str | None = Field(
        default=None, description="what would make its edits better, if it knows of something"
    )
    refused: dict[VersionId, str] = Field(
        default_factory=dict, description="versions that it was asked to load and cannot, and why"
    )
    generated_tokens: int = 0
    starts_per_second: float | None = Field(
        default=None,
        description="generations that it can begin while its batch is full, as lately measured",
    )
    rss_bytes: int = 0
    said_at: float | None = Field(default=None, description="unix seconds of this status")


class Workers(BaseModel):
    """Who edits and generates now, and what waits for them."""

    model_config = ConfigDict(frozen=True)

    workers: list[WorkerStatus] = Field(description="those alive")
    starting: list[WorkerStarting] = Field(description="those on their way to edit")
    waiting: int = Field(description="generations that no worker has taken", examples=[0])
    edits_waiting: int = Field(description="edits that no worker has taken", examples=[0])
