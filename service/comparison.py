"""One set of facts in two versions: the one that it came from, and the one made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from contracts.errors import NotFound
from contracts.rebase import HparamDifference, RebaseComparison
from registry.registry import Registry
from service.ledgers import ledger_of, said, standing

_LISTS = {
    (True, True): "both",
    (True, False): "only_source",
    (False, True): "only_target",
    (False, False): "neither",
}


def compare(registry: Registry, edit_id: str) -> RebaseComparison:
    """How source and target of a rebase fare, as far as both were measured by now.

    Raises:
        NotFound: there is no such edit, or it is no rebase.
        RegistryError: one of its records, or of its version's, cannot be read.
    """
    accepted, edit = registry.edits.get(edit_id), registry.edits.describe(edit_id)
    source = accepted.rebased_from
    if source is None:
        raise NotFound(f"{edit_id} is no rebase: it did not come by POST /rebase")
    target = None if edit.version is None else ledger_of(registry, edit.version)
    ids = [fact.id for fact in edit.facts]
    missed, unknown = set(source.missed), set(source.not_measured)
    by_source = {one: one not in missed for one in ids if one not in unknown}
    # What drop_failed left out was measured as not said, or could not be written at all.
    by_target = {**(said(target) if target else {}), **dict.fromkeys(edit.dropped, False)}
    lists = defaultdict(list)
    for one in ids:
        measured = one in by_source and one in by_target
        name = _LISTS[by_source[one], by_target[one]] if measured else "not_measured"
        lists[name].append(one)
    return RebaseComparison(
        edit_id=edit_id,
        state=edit.state,
        facts=len(ids),
        source=source.standing,
        target=standing(target) if target else None,
        hparams=_differences(source.hparams, target.hparams) if target else [],
        both=len(lists.pop("both", ())),
        **lists,
    )


def _differences(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[HparamDifference]:
    names = sorted({*source, *target})
    return [
        HparamDifference(name=name, source=source.get(name), target=target.get(name))
        for name in names
        if source.get(name) != target.get(name)
    ]
