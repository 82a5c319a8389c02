"""Whether a service is there, and whether it can work."""

from __future__ import annotations

from memit_client.model import Model


class Health(Model):
    """The service answers."""

    status: str = "ok"


class Readiness(Model):
    """Edits and generations can be served now."""

    status: str = "ready"
    version: str
    """What `active` names."""
    workers: int
    """Those that hold it."""
