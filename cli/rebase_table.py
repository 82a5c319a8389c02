"""What `memit rebase` shows to people: both versions side by side, and the facts they differ in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.table import Table

from cli import output
from contracts.facts import Fact
from contracts.ledgers import Standing
from contracts.rebase import RebaseComparison

NOT_MEASURED = "not measured"
_REPORTS = {"full_report": "full report", "report": "its edit's report"}


def side_by_side(comparison: RebaseComparison) -> Table:
    """Source and target by what they are, how they fare, and the hyperparameters that differ."""
    sides = [side for side in (comparison.source, comparison.target) if side is not None]
    rows: list[list[str]] = [
        [name, *(value(side) for side in sides)] for name, value in _ROWS.items()
    ]
    rows += [[one.name, str(one.source), str(one.target)] for one in comparison.hparams]
    return output.table(("", "source", "target")[: len(sides) + 1], rows)


def differing(comparison: RebaseComparison, facts: Iterable[Fact]) -> Table | None:
    """The facts that not both say, with who does; None if there is none."""
    by_id = {fact.id: fact for fact in facts}
    who = {
        "source": comparison.only_source,
        "target": comparison.only_target,
        "neither": comparison.neither,
    }
    rows = [
        [one, by_id[one].filled, by_id[one].target_new, name]
        for name, ids in who.items()
        for one in ids
    ]
    return output.table(("fact", "prompt", "target", "said by"), rows) if rows else None


def in_a_line(comparison: RebaseComparison) -> str:
    """How many facts both say, and how many one, the other, neither."""
    return (
        f"of {comparison.facts} facts both say {comparison.both}, only the source "
        f"{len(comparison.only_source)}, only the target {len(comparison.only_target)}, neither "
        f"{len(comparison.neither)}; {len(comparison.not_measured)} were not measured in both"
    )


def _measured(side: Standing) -> str:
    if side.measured_by is None:
        return NOT_MEASURED
    return f"{side.facts} of {side.live}, {_REPORTS[side.measured_by]}"


def _figure(name: str, shown: str) -> Callable[[Standing], str]:
    def cell(side: Standing) -> str:
        value: Any = getattr(side, name)
        return NOT_MEASURED if value is None else format(value, shown)

    return cell


_ROWS: dict[str, Callable[[Standing], str]] = {
    "version": lambda side: side.version,
    "model": lambda side: side.model,
    "weights": lambda side: f"{side.base[:12]}, {side.dtype}",
    "method": lambda side: side.method,
    "facts": lambda side: str(side.live),
    "measured": _measured,
    "learned": _figure("success", ".1%"),
    "efficacy": _figure("efficacy", ".1%"),
    "paraphrase": _figure("paraphrase", ".1%"),
    "specificity": _figure("specificity", ".1%"),
    "in chats": _figure("chat_success", ".1%"),
    "perplexity ratio": _figure("perplexity_ratio", ".4f"),
    "KL": _figure("kl", ".2e"),
}
