"""Which text to take the covariance from, and how much: the same facts written with each.

    python -m benchmarks.covariance_corpus FACTS.json --text HELD_OUT.txt \
        --corpus wikitext=WIKITEXT.txt --tokens 5000,20000,80000 [--chart OUT.png] [--model NAME]

FACTS.json holds CounterFact records. The packaged sample is always one of the corpora. z does not
depend on the covariance, so it is optimised once. Prints a table: efficacy, paraphrase and
neighborhood success (ES, PS, NS, in percent), their harmonic mean (Score), the share of greedy
answers that start with the target, and the perplexity of the held-out text as a ratio to the
unedited model's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.quality import COLUMNS, FIGURES, cast, figures
from memit_core.cache import MemoryCache
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.chart import new_figure
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import without_conflicts
from memit_core.facts import group_facts
from memit_core.held_out import HeldOutText
from memit_core.loading import load_model
from memit_core.model import Model
from memit_core.precision import z_dtype

PACKAGED = "packaged sample"
LEAST_SPAN = 5.0
"""Points of Score on its axis at least, so that what is noise does not look like an effect."""


def draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Score above, perplexity below, over the tokens; a line a corpus."""
    figure = new_figure(7, 6)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, value in zip(panels, ("score", "perplexity_ratio"), strict=True):
        for corpus in dict.fromkeys(row["corpus"] for row in rows if row["tokens"]):
            chosen = [row for row in rows if row["corpus"] == corpus]
            axes.plot(
                [row["tokens"] for row in chosen],
                [row[value] for row in chosen],
                "o-",
                label=corpus,
            )
        axes.grid(visible=True, color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    low, high = panels[0].get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    panels[0].set_ylim(low - spare, high + spare)
    panels[0].set_ylabel("Score")
    panels[1].set_ylabel("perplexity of other text,\ntimes the unedited model's")
    panels[1].set_xlabel("tokens that the covariance is taken from")
    panels[1].set_xscale("log")
    sizes = sorted({row["tokens"] for row in rows if row["tokens"]})
    panels[1].set_xticks(sizes, [f"{size:,}" for size in sizes])
    panels[1].minorticks_off()
    figure.savefig(file, format="png")


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    corpus: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, any number of times.")
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="Of the covariance, by commas; else the preset's.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Facts to write.")] = 60,
    scored: Annotated[int | None, typer.Option(help="Score the first so many only.")] = None,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Write the facts with each corpus and size; print the table."""
    loaded = load_model(model)
    records = without_conflicts(COUNTERFACT.read(facts, limit=limit))
    groups = group_facts(record.request for record in records)
    texts: dict[str, str | None] = {PACKAGED: None}
    for entry in corpus or ():
        name, _, file = entry.partition("=")
        texts[name] = Path(file).read_text("utf-8")
    cache = MemoryCache()
    usual = Editor(loaded, cache=cache)
    unedited = usual.base
    sizes = [int(size) for size in tokens.split(",") if size] or [usual.hparams.mom2_n_tokens]
    dtype = z_dtype(loaded.device, loaded.dtype)
    # The ratio is read to a thousandth, which bfloat16 does not give.
    held_out = HeldOutText(unedited, text.read_text("utf-8"))
    plain = held_out.score(unedited).perplexity
    console, rows = Console(), []
    console.print("  ".join(("corpus", "tokens", *COLUMNS, "ratio")))

    def measure(name: str, size: int, edited: Model) -> None:
        values = figures(cast(edited, dtype), records[:scored])
        ratio = held_out.score(edited).perplexity / plain
        rows.append({"corpus": name, "tokens": size, **values, "perplexity_ratio": ratio})
        shown = (name, size, *(values[f] for f in FIGURES), round(ratio, 4))
        console.print("  ".join(map(str, shown)))

    measure("(unedited)", 0, unedited)
    for name, content in texts.items():
        for size in sizes:
            hparams = replace(usual.hparams, mom2_n_tokens=size)
            editor = Editor(loaded, hparams, corpus=content, cache=cache)
            measure(name, size, editor.model_with(editor.solve(groups)))
    if json_out is not None:
        json_out.write_text(json.dumps(rows, indent=2) + "\n")
    if chart is not None:
        draw(chart, rows)


if __name__ == "__main__":
    typer.run(main)
