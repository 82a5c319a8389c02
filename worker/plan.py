"""Planning an edit: from the live facts of its parent and its request to the new live facts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from contracts.edits import EditRequest
from contracts.errors import Conflict, FieldError, InvalidRequest
from contracts.facts import Fact, LiveFact


@dataclass(frozen=True)
class Plan:
    """What a version will hold, and how that differs from its parent."""

    kept: dict[str, LiveFact]
    """Facts of the parent that stay, by id."""
    added: dict[str, Fact]
    """Facts of this edit, by id; one that was live already is added again with its new fields."""
    retracted: list[str] = field(default_factory=list)
    superseded: list[tuple[str, str]] = field(default_factory=list)
    """(old, new) ids: the new fact is about the same subject and prompt."""

    def facts(self) -> list[Fact]:
        """Every fact that will be live."""
        return [*(live.fact for live in self.kept.values()), *self.added.values()]


def plan_edit(
    live: Sequence[LiveFact], request: EditRequest, without: Collection[str] = ()
) -> Plan:
    """The plan of `request` on a parent with these live facts.

    Args:
        without: ids of facts of the request to leave out (drop_failed).

    Raises:
        Conflict: a fact to retract is not live in the parent.
        InvalidRequest: two facts of the request contradict each other; names both.
    """
    kept = {fact.id: fact for fact in live}
    for fact_id in request.retract:
        if kept.pop(fact_id, None) is None:
            raise Conflict(f"{fact_id} cannot be retracted: it is not live in the parent version")
    added = {
        fact.id: fact
        for fact in without_contradictions(request.facts).values()
        if fact.id not in without
    }
    by_key = {fact.fact.key: fact.id for fact in kept.values()}
    superseded = []
    for fact_id, fact in added.items():
        old = by_key.get(fact.key)
        if old is not None:
            del kept[old]
            if old != fact_id:
                superseded.append((old, fact_id))
    return Plan(kept, added, list(dict.fromkeys(request.retract)), superseded)


def without_contradictions(facts: Sequence[Fact]) -> dict[tuple[str, str], Fact]:
    """The facts by subject and prompt; identical ones collapse.

    Raises:
        InvalidRequest: two say different things about the same subject and prompt; names both.
    """
    first: dict[tuple[str, str], tuple[int, Fact]] = {}
    for index, fact in enumerate(facts):
        other, known = first.setdefault(fact.key, (index, fact))
        if known.said != fact.said:
            reason = (
                f"contradicts /facts/{other}: the same subject and prompt, "
                f"but {fact.target_new!r} instead of {known.target_new!r}"
            )
            error = FieldError(field=f"/facts/{index}/target_new", reason=reason, index=index)
            raise InvalidRequest(f"/facts/{index} {reason}", errors=[error])
    return {key: fact for key, (_, fact) in first.items()}
