"""Edits, as the service tells them."""

from __future__ import annotations

from memit_client.model import Model
from memit_client.problems import Problem
from memit_client.reports import Report


class Progress(Model):
    """How far a running edit is."""

    stage: str
    """`prepare`, `templates`, `covariance`, `factors`, `z`, `insert` or `evaluate`."""
    done: int
    total: int
    loss: float | None = None
    """Mean over the facts that are being optimised."""
    eta_seconds: float | None = None
    """Seconds left in this stage."""
    at: float
    """Unix seconds."""


class EditFact(Model):
    """A fact of an edit, by id."""

    id: str
    subject: str
    target_new: str


class Superseded(Model):
    """A fact that a newer one about the same subject and prompt replaced."""

    old: str
    new: str


class Edit(Model):
    """An edit; times are unix seconds."""

    id: str
    state: str
    """`queued`, `running`, and in the end `committed`, `rejected`, `failed` or `cancelled`."""
    accepted_at: float
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    cancel_requested: bool = False
    facts: list[EditFact] = []
    retract: list[str] = []
    base: str | None = None
    principal: str | None = None
    """Who posted it: id of a key, or `local`."""
    rebased_from: str | None = None
    progress: Progress | None = None
    version: str | None = None
    """What it made, also if that was rejected."""
    activated: bool = False
    """Whether `active` names its version."""
    not_activated: str | None = None
    """Why not, where it should."""
    superseded: list[Superseded] = []
    missed: list[str] = []
    """Ids of its facts that were not learned."""
    dropped: list[str] = []
    """Ids of its facts that `drop_failed` left out."""
    report: Report | None = None
    problem: Problem | None = None
    """Why it was not committed."""

    @property
    def ended(self) -> bool:
        """Whether its state will not change any more."""
        return self.ended_at is not None
