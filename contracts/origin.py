"""Which request something comes from; it travels with the work, for the worker's logs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from contracts import tracing


class Origin(BaseModel):
    """The request that made a generation or an edit."""

    model_config = ConfigDict(frozen=True)

    request_id: str | None = Field(default=None, pattern=r"^[!-~]{1,128}$")
    traceparent: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        description="W3C's, of the span that the work belongs to",
    )

    @classmethod
    def here(cls) -> Origin:
        """That of the request that is being answered."""
        from structlog.contextvars import get_contextvars  # only the processes have structlog

        return cls(
            request_id=get_contextvars().get("request_id"), traceparent=tracing.traceparent()
        )

    @property
    def ids(self) -> dict[str, str]:
        """What every line of a log about this work shows."""
        found = {"request_id": self.request_id, "trace_id": (self.traceparent or "")[3:35]}
        return {name: value for name, value in found.items() if value}
