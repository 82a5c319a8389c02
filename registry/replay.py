"""A lost ledger, from the one before it and what the edit did: checked by its digest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from contracts.errors import NotFound
from contracts.facts import Fact, LiveFact
from contracts.ids import version_seq
from contracts.versions import VersionManifest
from registry.edits import Edits
from registry.errors import RegistryError

logger = logging.getLogger(__name__)


def replayed(
    manifest: VersionManifest, before: Sequence[LiveFact], edits: Edits
) -> Iterator[list[LiveFact]]:
    """What the live facts of a version may have been; the digest of its ledger says which it was.

    `since` of its facts is the number that its editor tried first, at most the version's own.

    Args:
        before: live facts of its parent, none for v0.

    Returns:
        One list for each number that may have been tried, the likeliest first; none if the edit
        cannot be read.
    """
    brought = _brought(manifest, edits)
    if brought is None:
        return
    gone = {*manifest.retracted, *(old for old, _ in manifest.superseded), *manifest.added}
    kept = [live for live in before if live.id not in gone]
    measured = manifest.report.per_fact if manifest.report else []
    learned = {one.id: one.success for one in measured}
    first = version_seq(manifest.parent) + 1 if manifest.parent else manifest.seq
    for since in range(manifest.seq, first - 1, -1):
        yield kept + [
            LiveFact(
                id=fact_id,
                fact=fact,
                edit_id=str(manifest.edit_id),
                since=since,
                learned=learned.get(fact_id, False),
            )
            for fact_id, fact in brought.items()
        ]


def _brought(manifest: VersionManifest, edits: Edits) -> dict[str, Fact] | None:
    """The facts that the edit added, by id; None if they cannot be read."""
    if manifest.edit_id is None:
        return {}
    try:
        asked = edits.get(manifest.edit_id).request.facts
    except (NotFound, RegistryError) as error:
        logger.error("the ledger of version %d cannot be made again: %s", manifest.seq, error)
        return None
    found: dict[str, Fact] = {}
    for fact in asked:
        found.setdefault(fact.id, fact)
    return {fact_id: found[fact_id] for fact_id in manifest.added if fact_id in found}
