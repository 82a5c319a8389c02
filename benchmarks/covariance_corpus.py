"""Which text to take the covariance from: the same facts written with each, side by side.

    python benchmarks/covariance_corpus.py FACTS.json --text HELD_OUT.txt \
        --corpus wikitext=WIKITEXT.txt [--limit 60] [--model NAME]

FACTS.json holds CounterFact records. The packaged sample is always one of the corpora. z does not
depend on the covariance, so it is optimised once. Prints a table: efficacy, paraphrase and
neighborhood success (ES, PS, NS, in percent), their harmonic mean (Score), and perplexity on the
held-out text.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn import functional

from memit_core.cache import MemoryCache
from memit_core.covariance import corpus_rows
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.evaluate import FactScore, evaluate_facts
from memit_core.facts import Fact, group_facts
from memit_core.loading import LoadedModel, load_model
from memit_core.tokens import collate, pad_id

TEXT_TOKENS = 8_192
PERCENT = 100


def read_counterfact(path: Path, limit: int) -> list[Fact]:
    """The first records of a CounterFact file: a JSON list, or one record a line."""
    text = path.read_text("utf-8")
    lines = text.splitlines() if not text.lstrip().startswith("[") else []
    records = [json.loads(line) for line in lines] if lines else json.loads(text)
    return [as_fact(record) for record in records[:limit]]


def as_fact(record: dict[str, Any]) -> Fact:
    rewrite = record["requested_rewrite"]
    return Fact(
        rewrite["subject"],
        rewrite["prompt"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        tuple(record["paraphrase_prompts"]),
        tuple(record["neighborhood_prompts"]),
    )


def perplexity(view: Any, loaded: LoadedModel, text: str) -> float:
    """exp of the mean negative log-likelihood over the text's first tokens."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in corpus_rows(loaded.tokenizer, text, TEXT_TOKENS):
            batch = collate([row], pad_id(loaded.tokenizer), loaded.device)
            logits = view(**batch.inputs(), use_cache=False).logits[0, :-1].float()
            total += float(
                functional.cross_entropy(logits, batch.input_ids[0, 1:], reduction="sum")
            )
            count += len(row.ids) - 1
    return float(torch.tensor(total / count).exp())


def row(name: str, scores: list[FactScore], ppl: float) -> tuple[str, ...]:
    shares = [
        statistics.mean(float(value) for value in values if value is not None)
        for values in (
            [score.efficacy for score in scores],
            [score.paraphrase for score in scores],
            [score.specificity for score in scores],
        )
    ]
    score = statistics.harmonic_mean(shares)
    success = statistics.mean(score.success for score in scores)
    figures = [*shares, score, success]
    return (name, *(f"{PERCENT * figure:.1f}" for figure in figures), f"{ppl:.1f}")


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    corpus: Annotated[list[str], typer.Option(help="NAME=FILE, any number of times.")],
    limit: Annotated[int, typer.Option(help="Facts to write.")] = 60,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
) -> None:
    """Write the facts with each corpus and print the table."""
    loaded = load_model(model)
    records = read_counterfact(facts, limit)
    groups = group_facts(records)
    held_out = text.read_text("utf-8")
    named = dict(entry.split("=", 1) for entry in corpus)
    texts: dict[str, str | None] = {"packaged sample": None}
    texts |= {name: Path(file).read_text("utf-8") for name, file in named.items()}
    cache = MemoryCache()
    table = Table("covariance from", "ES", "PS", "NS", "Score", "greedy", "perplexity")

    def measure(name: str, view: Any) -> None:
        structure = Editor(loaded, cache=cache).structure
        scores = evaluate_facts(view, structure, loaded.tokenizer, records)
        table.add_row(*row(name, scores, perplexity(view, loaded, held_out)))

    measure("(unedited)", Editor(loaded, cache=cache).apply({}))
    for name, content in track(texts.items(), description="corpora"):
        editor = Editor(loaded, corpus=content, cache=cache)
        measure(name, editor.apply(editor.solve(groups)))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
