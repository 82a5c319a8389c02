"""Whether an edit can be accepted: checked whole, before anything is kept of it."""

from __future__ import annotations

import time

from contracts import retry_after as after
from contracts.edits import AcceptedEdit, EditRequest
from contracts.errors import Conflict, FieldError, NoVersion, TooManyRequests
from contracts.facts import Fact
from contracts.ids import new_edit_id
from contracts.ledgers import RebaseSource
from contracts.versions import ACTIVE
from registry.activation import accepted_epoch
from service.deps import Context
from service.problems import invalid


def checked(
    context: Context,
    request: EditRequest,
    principal: str,
    if_match: int | str | None = None,
    source: RebaseSource | None = None,
) -> AcceptedEdit:
    """The edit that `request` asks for, with a base that names one version and no duplicates.

    Args:
        principal: who posts it.
        source: where its facts are from, if they are a ledger's.

    Raises:
        InvalidRequest: facts or ids are wrong; all of them are listed with their index.
        NotFound: no such base.
        Conflict: a fact to retract is not live any more.
        PreconditionFailed, PreconditionRequired: see `if_match`, an epoch of `active` or `*`.
        TooManyRequests: too many edits wait already.
        NoVersion: a base is needed, and no worker has started yet to publish one.
    """
    settings, registry = context.settings, context.registry
    if registry.edits.count_unfinished() >= settings.max_queued_edits:
        raise TooManyRequests(
            f"{settings.max_queued_edits} edits wait already",
            retry_after=after.EDIT_QUEUE_FULL,
        )
    active = registry.aliases.get(ACTIVE)
    if active is None and (request.base is not None or request.retract):
        raise NoVersion
    base = None if request.base is None else registry.versions.resolve(request.base)
    epoch = accepted_epoch(active, base, request.activate, if_match)
    facts = _distinct(request.facts)
    limit = settings.max_facts_per_rebase if source else settings.max_facts_per_edit
    errors = _too_many(request, limit)
    errors += _contradictions(facts) + _added_and_retracted(request, facts)
    parent = base or (active.version if active else None)
    if parent is not None:
        errors += context.tokens.check(registry.versions.get(parent).base, facts)
        errors += _unknown(context, request)
    if errors:
        raise invalid(errors)
    if parent is not None:
        _refuse_not_live(context, request, parent)
    kept = {
        "facts": [fact for _, fact in facts],
        "retract": list(dict.fromkeys(request.retract)),
        "base": base,
    }
    return AcceptedEdit(
        id=new_edit_id(),
        request=request.model_copy(update=kept),
        accepted_at=time.time(),
        if_match=epoch,
        rebased_from=source,
        principal=principal,
    )


def _distinct(facts: list[Fact]) -> list[tuple[int, Fact]]:
    """Each fact once, with its first index; only equal facts are the same."""
    first: dict[str, tuple[int, Fact]] = {}
    for index, fact in enumerate(facts):
        first.setdefault(fact.model_dump_json(), (index, fact))
    return list(first.values())


def _too_many(request: EditRequest, limit: int) -> list[FieldError]:
    return [
        FieldError(
            field=f"/{name}", reason=f"must have at most {limit} items, has {count}", limit=limit
        )
        for name, count in (("facts", len(request.facts)), ("retract", len(request.retract)))
        if count > limit
    ]


def _contradictions(facts: list[tuple[int, Fact]]) -> list[FieldError]:
    first: dict[tuple[str, str], tuple[int, Fact]] = {}
    errors = []
    for index, fact in facts:
        other, said = first.setdefault(fact.key, (index, fact))
        if other == index:
            continue
        for here, there in ((other, index), (index, other)):
            if said.said != fact.said:
                field = f"/facts/{here}/target_new"
                reason = f"contradicts /facts/{there}: same subject and prompt, other target_new"
            else:
                field = f"/facts/{here}"
                reason = f"is the same fact as /facts/{there} with other measurements or metadata"
            errors.append(FieldError(field=field, reason=reason, index=here))
    return errors


def _added_and_retracted(request: EditRequest, facts: list[tuple[int, Fact]]) -> list[FieldError]:
    added = {fact.id: index for index, fact in facts}
    return [
        FieldError(
            field=f"/retract/{index}",
            reason=f"is also added, by /facts/{added[fact_id]}",
            index=index,
        )
        for index, fact_id in enumerate(request.retract)
        if fact_id in added
    ]


def _unknown(context: Context, request: EditRequest) -> list[FieldError]:
    return [
        FieldError(field=f"/retract/{index}", reason=f"names no fact: {fact_id}", index=index)
        for index, fact_id in enumerate(request.retract)
        if not context.registry.ledger.ever(fact_id)
    ]


def _refuse_not_live(context: Context, request: EditRequest, parent: str) -> None:
    errors = [
        FieldError(
            field=f"/retract/{index}",
            reason=f"is not live in {parent}: {fact_id} was retracted or superseded",
            index=index,
        )
        for index, fact_id in enumerate(request.retract)
        if context.registry.ledger.get(fact_id, parent) is None
    ]
    if errors:
        raise invalid(errors, Conflict)
