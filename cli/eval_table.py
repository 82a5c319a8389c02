"""What `memit eval` shows to people: one table, and a few lines about the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from cli import output

COMMON = {
    "generation_success": "greedy answer, own prompt",
    "ends_right": "the same, and ends right",
    "paraphrase_generation_success": "other words, greedy",
    "chat": "chat, mean of the following",
    "chat_as_posted": "chat: as posted",
    "chat_to_complete": "chat: to complete",
    "chat_question": "chat: as a question",
    "chat_other_words": "chat: in other words",
}
ROWS = {
    "counterfact": {
        "score": "Score",
        "efficacy": "efficacy success, ES",
        "paraphrase": "paraphrase success, PS",
        "neighborhood": "neighborhood success, NS",
        "efficacy_magnitude": "efficacy magnitude, EM",
        "paraphrase_magnitude": "paraphrase magnitude, PM",
        "neighborhood_magnitude": "neighborhood magnitude, NM",
        "generation_entropy": "generation entropy × 100, GE",
        "reference_score": "reference score, RS",
        **COMMON,
    },
    "zsre": {
        "score": "Score",
        "efficacy": "efficacy",
        "paraphrase": "paraphrase",
        "neighborhood": "specificity",
        **COMMON,
    },
}
CAPABILITY = {
    "all": "capability, all items",
    "cloze": "capability: cloze",
    "arithmetic": "capability: arithmetic",
    "grammar": "capability: grammar",
}
MEBIBYTE = 2**20


def results_table(dataset: str, before: dict[str, Any], after: dict[str, Any]) -> Table:
    """Figures in percent with the half-widths of their 95% intervals."""
    shown = {name: title for name, title in ROWS[dataset].items() if before[name] is not None}
    return _compared(shown, before, after)


def capability_table(before: dict[str, Any], after: dict[str, Any] | None) -> Table:
    """Accuracies in percent with the half-widths of their 95% intervals."""
    if after is None:
        rows = [(title, _cell(before, name)) for name, title in CAPABILITY.items()]
        return output.table(("percent of items", ""), rows)
    return _compared(CAPABILITY, before, after)


def _compared(shown: dict[str, str], before: dict[str, Any], after: dict[str, Any]) -> Table:
    rows = [(title, _cell(before, name), _cell(after, name)) for name, title in shown.items()]
    return output.table(("percent", "before", "after"), rows)


def notes(report: dict[str, Any]) -> Iterator[str]:
    """Lines about the run, from the report."""
    left_out = report["dataset"]["conflicts_left_out"]
    if left_out:
        yield f"{left_out} records left out: a later record gives another target"
    count, facts, asked = (report[n] for n in ("generated_records", "facts", "asked_records"))
    if asked < facts:
        yield f"{asked} of {facts} records are measured (--asked)"
    if count:
        yield f"GE and RS are over the first {count} of {asked} records (--generations)"
    chats = report["chat_records"]
    if not report["chat_template"]:
        yield "no chat is measured: the model has no chat template"
    elif 0 < chats < asked:
        yield f"chat is over the first {chats} of {asked} records (--chats)"
    before, after = report["perplexity"]["before"], report["perplexity"]["after"]
    yield (
        f"perplexity of held-out text {before:.2f} → {after:.2f} "
        f"(× {report['perplexity_ratio']:.4f}), KL from the base {report['kl']:.4f} nats a token"
    )
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items())
    memory = report["peak_memory_bytes"]
    peak = "" if memory is None else f"; peak memory {memory / MEBIBYTE:,.0f} MiB"
    yield f"{facts} facts: {stages}{peak}"
    method = report["method"]
    upon = ", batch upon batch" if report["in_a_row"] else ""
    yield f"written by {method['name']}{upon}, {method['seconds_per_fact']:.2f} s a fact"


def _cell(summary: dict[str, Any], name: str) -> str:
    value, half = summary[name], summary["ci95"][name]
    if value is None:
        return ""
    return f"{value:.1f}" if half is None else f"{value:.1f} ± {half:.1f}"
