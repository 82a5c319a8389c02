"""What is different between two versions, from their ledgers and reports."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from contracts.diffs import DiffFact, DiffFigure, DiffSide, DiffSuperseded, VersionDiff
from contracts.facts import LiveFact
from contracts.ledgers import Lineage
from contracts.reports import Scores
from contracts.versions import Version
from registry.registry import Registry

Change = tuple[LiveFact | None, LiveFact | None]
"""The fact in a and that in b: added without the one, retracted without the other."""
_DRIFT = ("perplexity_ratio", "kl")


def diff(registry: Registry, a: str, b: str, offset: int, limit: int) -> tuple[VersionDiff, bool]:
    """From version a to version b (full ids), with the changes from number `offset`.

    Returns:
        The difference, and whether there are changes after the last that it shows.

    Raises:
        NotFound, ManifestDamaged: see `Versions.get`.
        BlobMissing, BlobDamaged, RecordDamaged: their facts cannot be read.
    """
    sides = [registry.versions.describe(version) for version in (a, b)]
    before, after = ({one.id: one for one in registry.ledger.live(side)} for side in (a, b))
    gone = [one for fact_id, one in before.items() if fact_id not in after]
    came = [one for fact_id, one in after.items() if fact_id not in before]
    by_key = {one.fact.key: one for one in gone}
    superseded = [(old, one) for one in came if (old := by_key.get(one.fact.key)) is not None]
    replaced = {one.id for pair in superseded for one in pair}
    added = [(None, one) for one in came if one.id not in replaced]
    retracted = [(one, None) for one in gone if one.id not in replaced]
    changes: list[Change] = [*added, *superseded, *retracted]
    end = offset + limit
    shown = VersionDiff(
        a=_side(sides[0]),
        b=_side(sides[1]),
        same_base=sides[0].base == sides[1].base,
        unchanged=len(before) - len(gone),
        added_count=len(added),
        superseded_count=len(superseded),
        retracted_count=len(retracted),
        figures=_figures(*sides),
        **_lists(changes[offset:end]),
    )
    return shown, end < len(changes)


def _side(version: Version) -> DiffSide:
    return DiffSide(
        version=version.id,
        status=version.status,
        live=version.live_count,
        **{name: getattr(version, name) for name in Lineage.model_fields},
    )


def _lists(changes: Iterable[Change]) -> dict[str, Any]:
    lists: dict[str, list[Any]] = {"added": [], "superseded": [], "retracted": []}
    for old, new in changes:
        if old is not None and new is not None:
            lists["superseded"].append(DiffSuperseded(old=_short(old), new=_short(new)))
        elif new is not None:
            lists["added"].append(_short(new))
        elif old is not None:
            lists["retracted"].append(_short(old))
    return lists


def _short(live: LiveFact) -> DiffFact:
    fact = live.fact
    return DiffFact(
        id=live.id, subject=fact.subject, prompt=fact.prompt, target_new=fact.target_new
    )


def _figures(a: Version, b: Version) -> list[DiffFigure]:
    return list(
        chain(
            _moved("report", a.report, b.report, (*Scores.model_fields, *_DRIFT)),
            _moved(
                "live_sample",
                a.report and a.report.live_sample,
                b.report and b.report.live_sample,
                Scores.model_fields,
            ),
            _moved("full_report", a.full_report, b.full_report, Scores.model_fields),
        )
    )


def _moved(
    report: str, a: Scores | None, b: Scores | None, names: Iterable[str]
) -> list[DiffFigure]:
    figures = []
    for name in names:
        before, after = getattr(a, name, None), getattr(b, name, None)
        if before is not None and after is not None:
            figure = {"report": report, "name": name, "a": before, "b": after}
            figures.append(DiffFigure.model_validate({**figure, "difference": after - before}))
    return figures
