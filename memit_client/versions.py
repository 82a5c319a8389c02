"""Versions and aliases."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from memit_client.facts import LiveFact
from memit_client.model import Model
from memit_client.reports import FullReport, Report

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hex; blobs are fetched and named by it."""


class LayerWeights(Model):
    """The change of one matrix."""

    layer: int
    module: str
    blob: Digest
    kind: str
    """`low_rank` or `dense`."""
    rank: int
    transposed: bool = False


class Version(Model):
    """An immutable version: the base model with the changes that its live facts need."""

    id: str
    seq: int
    aliases: list[str] = []
    status: str = "committed"
    """Or `rejected`, for the reason in `rejection`."""
    rejection: str | None = None
    dry_run: bool = False
    parent: str | None = None
    edit_id: str | None = None
    created_at: float
    """Unix seconds."""
    model: str
    base: str
    """Digest of the base model's weights."""
    dtype: str
    device: str = "cpu"
    method: str = "memit"
    hparams: dict[str, Any]
    live: Digest
    """The blob with its facts."""
    live_count: int
    added: list[str] = []
    retracted: list[str] = []
    superseded: list[tuple[str, str]] = []
    """Pairs (old, new)."""
    dropped: list[str] = []
    weights: list[LayerWeights] = []
    report: Report | None = None
    full_report: FullReport | None = None
    """Follows some time after the commit."""


class Ledger(Model):
    """All that a version says."""

    version: str
    model: str
    base: str
    dtype: str
    method: str
    hparams: dict[str, Any]
    facts: list[LiveFact]
    report: Report | None = None
    full_report: FullReport | None = None


class Alias(Model):
    """Where an alias points; each move makes a new epoch."""

    name: str
    epoch: int
    version: str
    at: float
    """Unix seconds."""
    edit_id: str | None = None
    """The edit that moved it, if one did."""
