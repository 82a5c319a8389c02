"""One measurement as JSON: every figure in percent, with what it was measured on and with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memit_core.edit import Editor
from memit_core.eval.benchmark import Measured, Result
from memit_core.eval.measures import Measures
from memit_core.eval.summary import Summary
from memit_core.software import software

PERCENT = 100


def as_json(result: Result, editor: Editor, **details: Any) -> dict[str, Any]:
    """The report; shares, magnitudes, entropies and cosines are times 100.

    Args:
        details: what else the report shall hold, e.g. of the dataset.
    """
    loaded = editor.loaded
    return {
        "unit": "percent",
        "facts": result.facts,
        "asked_records": len(result.measured),
        **details,
        "model": {
            "name": loaded.name,
            "digest": loaded.digest,
            "device": str(loaded.device),
            "dtype": loaded.dtype_name,
        },
        "method": asdict(result.method) | {"seconds_per_fact": result.seconds_per_fact},
        "hparams": editor.hparams.as_dict(),
        "before": summary_json(result.before),
        "after": summary_json(result.after),
        "perplexity": dict(zip(("before", "after"), result.perplexity, strict=True)),
        "perplexity_ratio": result.perplexity_ratio,
        "kl": result.kl,
        "generated_records": result.generated,
        "chat_records": result.chats,
        "chat_template": bool(loaded.tokenizer.chat_template),
        "capability": capability_json(result.capability),
        "software": software("nltk", "scikit-learn"),
        "per_record": [_record_json(one) for one in result.measured],
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """Figures by name, and under "ci95" their half-widths by the same names; all in percent."""
    return {**_percent(summary.values), "ci95": _percent(summary.ci95)}


def capability_json(both: tuple[Summary, Summary] | None) -> dict[str, Any] | None:
    """The two summaries under "before" and "after"; None where there are none."""
    if both is None:
        return None
    return dict(zip(("before", "after"), map(summary_json, both), strict=True))


def _record_json(one: Measured) -> dict[str, Any]:
    fact = one.record.fact
    return {
        "index": one.record.index,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "batch": one.batch,
        "before": _measures_json(one.before),
        "after": _measures_json(one.after),
    }


def _measures_json(measures: Measures) -> dict[str, float | None]:
    return _percent(asdict(measures))


def _percent(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if v is None else PERCENT * v for name, v in values.items()}
