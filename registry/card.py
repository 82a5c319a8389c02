"""A version described to people: the README.md of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from contracts.exports import LOSSLESS, Export
from contracts.facts import LiveFact
from contracts.reports import Scores
from contracts.versions import Version

LISTED = 50
MEASURES = {
    "success": "greedy answer is the target",
    "efficacy": "p(new) > p(true)",
    "paraphrase": "the same on paraphrases",
    "specificity": "p(true) > p(new) on neighborhood prompts",
    "chat_success": "known in a chat",
}


def model_card(
    version: Version, facts: Sequence[LiveFact], export: Export, notes: Sequence[str] = ()
) -> str:
    """The page as Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        facts: the version's, in its order.
        notes: more lines about how the folder was made.
    """
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(version.model, ensure_ascii=False)}",
            f"library_name: {'peft' if export.format == 'peft' else 'transformers'}",
            "pipeline_tag: text-generation",
            "tags: [memit, knowledge-editing]",
            "---",
            f"# {version.id}",
            "",
            *_made(version, export),
            *(f"- {note}" for note in notes),
            "",
            "## Report",
            "",
            *(_report(version) or ["None was made."]),
            "",
            "## Facts",
            "",
            *_facts(facts),
            "",
        ]
    )


def _made(version: Version, export: Export) -> Iterator[str]:
    yield f"- Base model: `{version.model}` in {version.dtype}, digest `{version.base}`"
    yield f"- Version: `{version.id}`, {version.live_count} facts written by {version.method}"
    software = ", ".join(f"{name} {release}" for name, release in version.software.items())
    yield f"- Made by memit-service {export.made_by}" + (f" on {software}" if software else "")
    if export.format == "merged":
        yield "- Weights: the base's with this version's changes added, as the service serves them"
    if export.rank is not None and export.relative_error is not None:
        yield f"- LoRA adapter of rank {export.rank}"
        exact = "rounding alone" if export.relative_error <= LOSSLESS else "**it lost something**"
        yield f"- Relative error of its matrices: {export.relative_error:.1e} at most ({exact})"


def _report(version: Version) -> list[str]:
    lines = []
    if version.report is not None:
        lines += [f"- On the last edit's facts: {_scores(version.report)}"]
        for name in ("perplexity_ratio", "kl"):
            value = getattr(version.report, name)
            if value is not None:
                lines.append(f"- {name}: {value:.4g}")
    if version.full_report is not None:
        lines.append(f"- On all facts: {_scores(version.full_report)}")
    return lines


def _scores(scores: Scores) -> str:
    found = [f"{scores.facts} facts"]
    for name, meaning in MEASURES.items():
        value = getattr(scores, name)
        if value is not None:
            found.append(f"{name} {value:.1%} ({meaning})")
    return ", ".join(found)


def _facts(facts: Sequence[LiveFact]) -> Iterator[str]:
    if not facts:
        yield "None."
        return
    yield f"`facts.json` holds {len(facts)}" + (":" if len(facts) <= LISTED else ".")
    if len(facts) <= LISTED:
        # As JSON in a code block: whatever a fact holds, it stays text.
        yield from ("", "```text")
        for live in facts:
            pair = (live.fact.filled, live.fact.target_new)
            yield " -> ".join(json.dumps(text, ensure_ascii=False) for text in pair)
        yield "```"
