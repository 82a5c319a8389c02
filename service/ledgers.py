"""The ledger of a version as one document, and what its reports say of its facts."""

from __future__ import annotations

from contracts.errors import Conflict
from contracts.ids import FactId, drawn
from contracts.ledgers import Lineage, RebaseSource, Standing, VersionLedger
from contracts.limits import MAX_FACTS_PER_EDIT
from contracts.reports import Scores
from registry.registry import Registry


def ledger_of(registry: Registry, version: str) -> VersionLedger:
    """The document of a version (full id).

    Raises:
        NotFound, ManifestDamaged: see `Versions.get`.
        BlobMissing, BlobDamaged, RecordDamaged: its facts cannot be read.
        Conflict: it has more facts than a document holds.
    """
    made = registry.versions.get(version)
    if made.live_count > MAX_FACTS_PER_EDIT:
        raise Conflict(
            f"{version} has {made.live_count} live facts and a ledger holds at most "
            f"{MAX_FACTS_PER_EDIT}; its checkpoint has them all, in facts.json"
        )
    return VersionLedger(
        version=version,
        model=made.model,
        base=made.base,
        dtype=made.dtype,
        method=made.method,
        hparams=made.hparams,
        facts=registry.ledger.live(version),
        report=made.report,
        full_report=registry.full_reports.get(version),
    )


def standing(ledger: VersionLedger) -> Standing:
    """How the version fares; the shares are from its full report, or else from its edit's."""
    report, full = ledger.report, ledger.full_report
    shares = full or report or Scores(facts=0)
    return Standing(
        version=ledger.version,
        live=len(ledger.facts),
        measured_by="full_report" if full else "report" if report else None,
        perplexity_ratio=report.perplexity_ratio if report else None,
        kl=report.kl if report else None,
        **{name: getattr(ledger, name) for name in Lineage.model_fields},
        **{name: getattr(shares, name) for name in Scores.model_fields},
    )


def said(ledger: VersionLedger) -> dict[FactId, bool]:
    """Whether the version says a fact, of those that were measured; the full report goes first."""
    measured = {one.id: one.success for one in ledger.report.per_fact} if ledger.report else {}
    live = [fact.id for fact in ledger.facts]
    if full := ledger.full_report:
        missed = set(full.missed)
        sample = drawn(live, full.facts, ledger.version)
        measured |= {fact_id: fact_id not in missed for fact_id in sample}
    return {fact_id: measured[fact_id] for fact_id in live if fact_id in measured}


def source_of(ledger: VersionLedger) -> RebaseSource:
    """What an edit keeps of a ledger besides its facts."""
    measured = said(ledger)
    return RebaseSource(
        standing=standing(ledger),
        hparams=ledger.hparams,
        missed=[fact_id for fact_id, says in measured.items() if not says],
        not_measured=[fact.id for fact in ledger.facts if fact.id not in measured],
    )
