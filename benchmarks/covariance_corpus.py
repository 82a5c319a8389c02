"""Which text to take the covariance from: the same facts written with each, side by side.

    python -m benchmarks.covariance_corpus FACTS.json --text HELD_OUT.txt \
        --corpus wikitext=WIKITEXT.txt [--limit 60] [--model NAME]

FACTS.json holds CounterFact records. The packaged sample is always one of the corpora. z does not
depend on the covariance, so it is optimised once. Prints a table: efficacy, paraphrase and
neighborhood success (ES, PS, NS, in percent), their harmonic mean (Score), and perplexity on the
held-out text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality import COLUMNS, FIGURES, figures
from memit_core.cache import MemoryCache
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.datasets import COUNTERFACT
from memit_core.facts import group_facts
from memit_core.held_out import HeldOutText
from memit_core.loading import load_model


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    corpus: Annotated[list[str], typer.Option(help="NAME=FILE, any number of times.")],
    limit: Annotated[int, typer.Option(help="Facts to write.")] = 60,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
) -> None:
    """Write the facts with each corpus and print the table."""
    loaded = load_model(model)
    records = COUNTERFACT.read(facts, limit=limit)
    groups = group_facts(record.request for record in records)
    named = dict(entry.split("=", 1) for entry in corpus)
    texts: dict[str, str | None] = {"packaged sample": None}
    texts |= {name: Path(file).read_text("utf-8") for name, file in named.items()}
    cache = MemoryCache()
    base = Editor(loaded, cache=cache)
    held_out = HeldOutText(
        base.apply({}), base.structure, loaded.tokenizer, text.read_text("utf-8")
    )
    table = Table("covariance from", *COLUMNS, "perplexity")

    def measure(name: str, view: Any) -> None:
        values = figures(base, view, records)
        perplexity = held_out.score(view).perplexity
        table.add_row(name, *(f"{values[f]:.1f}" for f in FIGURES), f"{perplexity:.1f}")

    measure("(unedited)", base.apply({}))
    for name, content in track(texts.items(), description="corpora"):
        editor = Editor(loaded, corpus=content, cache=cache)
        measure(name, editor.apply(editor.solve(groups)))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
