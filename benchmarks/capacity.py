"""How many facts a model takes: quality at growing numbers, at once and by stacking.

    python -m benchmarks.capacity FACTS.json --text HELD_OUT.txt \
        --sizes 1,10,100,300,1000,3000 --stacked 1,10,100 --home DIR [--json OUT] [--chart OUT.png]

FACTS.json holds CounterFact records, long or short. "At once" is what the service does: weights are
a function of the base and the set of facts, in whatever order and batches these came. "Stacked" is
the usual way of other tools: one fact after another, each optimised on and added to the weights
that the earlier ones left. At every size the same number of records, spread evenly over those
written, is asked again. z is kept under --home, a registry's folder, from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.quality import COLUMNS, FIGURES, SharedCache, cast, figures
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.chart import new_figure
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import Record, spread, without_conflicts
from memit_core.facts import group_facts
from memit_core.held_out import HeldOutText
from memit_core.hparams import HParams, from_file
from memit_core.loading import LoadedModel, load_model
from memit_core.model import Model
from memit_core.precision import z_dtype
from registry import FolderStore, Registry

Row = dict[str, Any]
LINES = {
    "score": ("Score", "#1f6f8b"),
    "generation_success": ("greedy answer", "#c8553d"),
    "neighborhood": ("neighbours kept", "#588157"),
}


def stacked(
    loaded: LoadedModel, hparams: HParams, cache: Any, records: Sequence[Record]
) -> Iterator[Model]:
    """The model after each record, written one after another into what the earlier ones left."""
    for record in records:
        # Templates and covariance are the base's, as in sequential runs of the official code.
        editor = Editor(loaded, hparams, cache=SharedCache(cache))
        model = editor.model_with(editor.solve(group_facts([record.request])))
        yield model
        loaded = replace(loaded, model=model.view)


class Measure:
    """Figures of a model, beside those of the unedited model on the same records."""

    def __init__(self, editor: Editor, text: str, scored: int) -> None:
        self._scored = scored
        self._dtype = z_dtype(editor.loaded.device, editor.loaded.dtype)
        self._base = cast(editor.base, self._dtype)
        self._held_out = HeldOutText(self._base, text)
        self._plain = self._held_out.score(self._base).perplexity

    def __call__(self, way: str, model: Model, records: Sequence[Record]) -> Row:
        """A row of the table: percent, and the perplexity as a ratio."""
        asked = spread(records, self._scored)
        model = cast(model, self._dtype)
        before = figures(self._base, asked)
        ratio = self._held_out.score(model).perplexity / self._plain
        return {
            "way": way,
            "facts": len(records),
            "asked": len(asked),
            **figures(model, asked),
            "neighborhood_before": before["neighborhood"],
            "perplexity_ratio": round(ratio, 8),
        }


def draw(file: Path, rows: Sequence[Row]) -> None:
    """Percent above, perplexity below, over the number of facts; stacking is dashed."""
    figure = new_figure(8, 7)
    percent, ratio = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for way, style in (("at once", "o-"), ("stacked", "s--")):
        chosen = [row for row in rows if row["way"] == way]
        if not chosen:
            continue
        facts = [row["facts"] for row in chosen]
        for name, (label, colour) in LINES.items():
            percent.plot(
                facts, [r[name] for r in chosen], style, color=colour, label=f"{label}, {way}"
            )
        ratios = [row["perplexity_ratio"] for row in chosen]
        ratio.plot(facts, ratios, style, color="#333333", label=way)
    percent.set_ylabel("percent")
    percent.set_ylim(0, 103)
    ratio.set_ylabel("perplexity of other text,\ntimes the unedited model's")
    ratio.set_yscale("log")
    ratio.set_xscale("log")
    ratio.set_xlabel("facts in the model")
    sizes = sorted({row["facts"] for row in rows})
    ratio.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ticks = [1, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 100, 1000]
    top = max(row["perplexity_ratio"] for row in rows)
    shown = [tick for tick in ticks if tick <= 1.2 * top]
    ratio.set_yticks(shown, [f"{tick:g}" for tick in shown])
    ratio.minorticks_off()
    for axes in (percent, ratio):
        axes.grid(visible=True, color="#e5e7eb")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=2, fontsize=8, handlelength=4)
    figure.savefig(file, format="png")


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    home: Annotated[Path, typer.Option(help="Registry folder where z is kept.")],
    sizes: Annotated[str, typer.Option(help="Facts at once, by commas.")] = "1,10,100",
    stacked_sizes: Annotated[str, typer.Option("--stacked", help="Stacked, by commas.")] = "",
    skip: Annotated[int, typer.Option(help="Records to leave out at the beginning.")] = 0,
    scored: Annotated[int, typer.Option(help="Records asked at each size.")] = 200,
    hparams: Annotated[Path | None, typer.Option(help="JSON file of hyperparameters.")] = None,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Measure every size, print a line each, write and draw all."""
    console = Console()
    loaded = load_model(model)
    counts, steps = ([int(n) for n in which.split(",") if n] for which in (sizes, stacked_sizes))
    records = without_conflicts(COUNTERFACT.read(facts, skip=skip))[: max([*counts, *steps])]
    cache = Registry(FolderStore(home)).artefacts(loaded.digest)
    editor = Editor(loaded, from_file(hparams) if hparams else None, cache=cache)
    editor.prepare()
    measure = Measure(editor, text.read_text("utf-8"), scored)
    rows: list[Row] = []
    console.print("  ".join(("way", "facts", "asked", *COLUMNS, "NS unedited", "ratio")))

    def report(way: str, model: Model, count: int) -> None:
        row = measure(way, model, records[:count])
        rows.append(row)
        shown = (row[name] for name in (*FIGURES, "neighborhood_before", "perplexity_ratio"))
        console.print("  ".join(map(str, (way, count, row["asked"], *shown))))
        if json_out is not None:
            json_out.write_text(json.dumps(rows, indent=2) + "\n")

    for count in counts:
        solved = editor.solve(group_facts(record.request for record in records[:count]))
        report("at once", editor.model_with(solved), count)
    stack = stacked(loaded, editor.hparams, cache, records[: max(steps, default=0)])
    for done, stacked_model in enumerate(track(stack, "stacking", total=max(steps, default=0)), 1):
        if done in steps:
            report("stacked", stacked_model, done)
    if chart is not None:
        draw(chart, rows)


if __name__ == "__main__":
    typer.run(main)
