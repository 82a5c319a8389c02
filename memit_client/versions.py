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
    weights_kept: bool = True
    """False: they were removed, and are solved again when they are asked for."""


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
    """Of a split the heaviest."""
    split: dict[str, int] | None = None
    """Weights by version, if it splits generations."""
    at: float
    """Unix seconds."""
    edit_id: str | None = None
    """The edit that moved it, if one did."""
    principal: str | None = None
    """Who moved it otherwise: id of a key, or `local`."""


class AliasPeriod(Alias):
    """What an alias named, from `at` on."""

    until: float | None = None
    """Unix seconds; None: it holds now."""


class DiffSide(Model):
    """One of two versions that are compared."""

    version: str
    status: str
    model: str
    base: str
    dtype: str
    method: str
    live: int


class DiffFact(Model):
    """A fact, in short."""

    id: str
    subject: str
    prompt: str
    target_new: str


class DiffSuperseded(Model):
    """Two facts about the same subject and prompt."""

    old: DiffFact
    new: DiffFact


class DiffFigure(Model):
    """A figure that was measured on both versions."""

    report: str
    name: str
    a: float
    b: float
    difference: float


class VersionDiff(Model):
    """What has to be done to the facts of a for those of b; the lists hold the first changes."""

    a: DiffSide
    b: DiffSide
    same_base: bool
    unchanged: int
    added_count: int
    superseded_count: int
    retracted_count: int
    added: list[DiffFact] = []
    superseded: list[DiffSuperseded] = []
    retracted: list[DiffFact] = []
    figures: list[DiffFigure] = []
    next_cursor: str | None = None
    """There are more changes."""
