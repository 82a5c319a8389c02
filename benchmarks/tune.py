"""Search hyperparameters on CounterFact: every variant of z once, every λ on it.

    python -m benchmarks.tune FACTS.json --text HELD_OUT.txt --sizes 100,300 \
        --lambdas 300,1000,3000 --variant '{}' --variant '{"v_stop_after_lead": 1}' [--json OUT]

A variant is a JSON object of hyperparameters that differ from the model's preset. z of the largest
size is optimised once a variant; smaller sizes take the first facts. Scores are read in bfloat16
where that is faster. Perplexity ratios are taken on the held-out text and on the end of the
packaged corpus. Prints a table and writes JSON, a line a measurement.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.quality import COLUMNS, Bench, cast, figures
from memit_core.default_model import DEFAULT_MODEL
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import without_conflicts
from memit_core.facts import group_facts
from memit_core.held_out import HeldOutText
from memit_core.hparams import from_dict
from memit_core.loading import load_model
from memit_core.model import Model
from memit_core.precision import z_dtype
from memit_core.preset import for_model

OWN_CHARS, OWN_TOKENS = 30_000, 4_096
"""Of the packaged corpus' end."""


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    variant: Annotated[list[str], typer.Option(help="JSON object of hyperparameters.")],
    sizes: Annotated[str, typer.Option(help="Facts at once, by commas.")] = "100",
    lambdas: Annotated[str, typer.Option(help="λ, by commas.")] = "1000",
    skip: Annotated[int, typer.Option(help="Records to leave out at the beginning.")] = 0,
    corpus: Annotated[Path | None, typer.Option(help="Text for the covariance.")] = None,
    scored: Annotated[int | None, typer.Option(help="Score the first so many only.")] = None,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Lines are added to it.")] = None,
) -> None:
    """Measure every variant, size and λ."""
    loaded = load_model(model)
    preset = for_model(loaded.model.config, loaded.structure)
    counts = sorted(int(size) for size in sizes.split(","))
    records = without_conflicts(COUNTERFACT.read(facts, skip=skip, limit=counts[-1]))
    bench, console = Bench(loaded), Console()
    console.print("  ".join(("variant", "facts", "λ", *COLUMNS, "ratio", "ratio, own", "s a fact")))
    base = bench.editor()
    dtype = z_dtype(loaded.device, loaded.dtype)
    unedited = cast(base.base, dtype)
    held_out = HeldOutText(unedited, text.read_text("utf-8"))
    own = HeldOutText(unedited, base.corpus[-OWN_CHARS:], OWN_TOKENS)
    plain, plain_own = (one.score(unedited).perplexity for one in (held_out, own))
    content = None if corpus is None else corpus.read_text("utf-8")

    def report(name: str, count: int, weight: float, edited: Model, seconds: float) -> None:
        values = figures(edited, records[: count if scored is None else min(count, scored)])
        ratio = held_out.score(edited).perplexity / plain
        ratio_own = own.score(edited).perplexity / plain_own
        row = {"variant": name, "facts": count, "lambda": weight, **values}
        row |= {"perplexity_ratio": round(ratio, 8), "perplexity_ratio_own": round(ratio_own, 8)}
        row |= {"seconds_per_fact": round(seconds, 3)}
        console.print("  ".join(str(value) for value in row.values()))
        if json_out is not None:
            with json_out.open("a") as out:
                out.write(json.dumps(row) + "\n")

    for count in counts:
        report("unedited", count, 0.0, unedited, 0.0)
    for name in variant:
        changed = from_dict({**preset.as_dict(), **json.loads(name)})
        editor = bench.editor(changed, corpus=content)
        start = time.perf_counter()
        editor.targets(group_facts(record.request for record in records))
        seconds = (time.perf_counter() - start) / len(records)
        for weight in (float(value) for value in lambdas.split(",")):
            editor.hparams = replace(
                editor.hparams, mom2_update_weight=weight, mom2_weight_per_subject=0.0
            )
            for count in counts:
                solved = editor.solve(group_facts(r.request for r in records[:count]))
                report(name, count, weight, cast(editor.model_with(solved), dtype), seconds)


if __name__ == "__main__":
    typer.run(main)
