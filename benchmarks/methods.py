"""Editing methods side by side: the same facts, asked the same, at growing numbers.

    python -m benchmarks.methods FACTS.json --text HELD_OUT.txt --sizes 1,10,100,500 \
        --methods memit,alphaedit,rome,ft,ultraedit --home DIR --json OUT.json --chart OUT.png

FACTS.json holds CounterFact records. Some of them, spread evenly over those of the largest size,
are asked at every size: facts of a small size are written in groups, each into the unedited model,
and larger sizes add facts that are not asked. "At once" writes a group together; "in a row" writes
its facts one after another into one model, which is shown for methods that then end elsewhere.
Capability is measured where a size is one group.
z of MEMIT and AlphaEdit is the same, and is kept under --home, a registry's folder; its time is
counted where it was last optimised. --beside shows
the rows of an earlier run too, so that two runs on the same facts can share the work.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Cost, timed
from benchmarks.quality import ASKED, groups_of, percent
from cli.eval_progress import TerminalProgress
from memit_core.cache import Cache
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.benchmark import Options, Result, measured_by
from memit_core.eval.chart import new_figure
from memit_core.eval.costs import Stopwatch
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import Record, spread, without_conflicts
from memit_core.eval.report import summary_json
from memit_core.eval.summary import summarise
from memit_core.eval.yardstick import Yardstick
from memit_core.hparams import from_file
from memit_core.loading import load_model
from memit_core.methods import METHODS
from memit_core.methods.writer import Stacking
from memit_core.progress import ProgressCallback, silent
from registry import FolderStore, Registry

Row = dict[str, Any]
COLUMNS = {"score": "Score", **ASKED}
COSTS = ("ratio", "capability", "s a fact", "MiB")
AT_ONCE, IN_A_ROW = "at once", "in a row"
SHARED_Z = ("memit", "alphaedit")
TEXT_CHARS = 10_000
"""Of the held-out text: it is scored on every group's model."""
MEBIBYTE = 2**20
PANELS = {
    "generation_success": "greedy answer, %",
    "neighborhood": "neighbours kept, NS, %",
    "perplexity_ratio": "perplexity, times the unedited, up to 3",
}
RATIO_SHOWN = 3
"""What is ruined more than so is out of the picture, which else would show nothing but that."""
RATIOS = (1, 1.1, 1.2, 1.5, 2, 3)


class CountedZ:
    """A cache that counts the z that are put into it."""

    def __init__(self, cache: Cache) -> None:
        self._cache, self.made = cache, 0

    def get(self, name: str) -> bytes | None:
        return self._cache.get(name)

    def put_once(self, name: str, data: bytes) -> bytes:
        self.made += name.startswith("z/")
        return self._cache.put_once(name, data)


class Meter(Stopwatch):
    """A stopwatch that also takes the memory that writing adds."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.cost, self._device = Cost(), device

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with super().stage(name):
            if name not in {"z", "insert"}:
                yield
                return
            with timed(self.cost, 0, self._device):
                yield


@dataclass
class Comparison:
    """Rows of one editor's methods."""

    editor: Editor
    yardstick: Yardstick
    records: list[Record]
    kept: CountedZ
    """The editor's cache."""
    rows: list[Row] = field(default_factory=list)
    z_seconds: float | None = None
    """Of a fact, where z was last optimised; None while all were read back."""
    progress: ProgressCallback = silent

    def measure(self, method: str, size: int, way: str) -> Row:
        """Write groups of `size` facts by a method, and ask."""
        meter = Meter(self.editor.loaded.device)
        groups = groups_of(self.records, self.yardstick.asked(self.records), size)
        options = Options(method=method, capability=len(groups) == 1)
        if way == IN_A_ROW:
            options = replace(options, batch=1, in_a_row=True)
        made = self.kept.made
        results = [
            measured_by(self.yardstick, group, options, self.progress, clock=meter)
            for group in groups
        ]
        z, written = meter.seconds.get("z", 0.0), sum(one.facts for one in results)
        if self.kept.made > made:
            self.z_seconds = z / (self.kept.made - made)
        of_z = self.z_seconds if method in SHARED_Z and way == AT_ONCE else z / written
        seconds = None if of_z is None else of_z + meter.seconds["insert"] / written
        found = _figures(results, meter)
        return {"facts": size, "method": method, "way": way, **found, "seconds_per_fact": seconds}


def _figures(results: Sequence[Result], meter: Meter) -> Row:
    after = summary_json(summarise([m.after for one in results for m in one.measured]))
    right = [one.capability[1].values["all"] or 0.0 for one in results if one.capability]
    return {
        "asked": sum(len(one.measured) for one in results),
        **{name: after[name] for name in COLUMNS},
        "ci95": {name: after["ci95"][name] for name in COLUMNS},
        "perplexity_ratio": fmean(one.perplexity_ratio for one in results),
        "capability": 100 * fmean(right) if right else None,
        "peak_bytes": meter.cost.peak_bytes,
        "options": dict(results[-1].method.options),
    }


def unedited(yardstick: Yardstick) -> Row:
    """What the base answers; the first row."""
    before = summary_json(summarise(list(yardstick.base_measures.values())))
    capability = yardstick.capability.base
    return {
        "facts": 0,
        "method": "unedited",
        "way": "",
        "asked": len(yardstick.base_measures),
        **{name: before[name] for name in COLUMNS},
        "ci95": {name: before["ci95"][name] for name in COLUMNS},
        "perplexity_ratio": 1.0,
        "capability": None if capability is None else 100 * capability,
        "seconds_per_fact": None,
        "peak_bytes": None,
    }


def ways_of(editor: Editor, method: str, size: int) -> list[str]:
    """One fact after another only where that ends elsewhere than all at once."""
    made = METHODS[method](editor)
    if size == 1 or not isinstance(made, Stacking):
        return [AT_ONCE]
    return [IN_A_ROW] if made.ordered else [AT_ONCE, IN_A_ROW]


def shown(rows: Sequence[Row]) -> Table:
    """All rows by the number of facts, with the half-widths of their 95% intervals."""
    table = Table("facts", "method", "way", "asked", *COLUMNS.values(), *COSTS)
    for row in sorted(rows, key=lambda row: row["facts"]):
        table.add_row(str(row["facts"]), row["method"], row["way"], str(row["asked"]), *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    capability, seconds, peak = (row[n] for n in ("capability", "seconds_per_fact", "peak_bytes"))
    costs = (
        f"{row['perplexity_ratio']:.3f}",
        "" if capability is None else f"{capability:.1f}",
        "" if seconds is None else f"{seconds:.2f}",
        "" if peak is None else f"{peak / MEBIBYTE:,.0f}",
    )
    return [*(percent(row, name) for name in COLUMNS), *costs]


def draw(file: Path, rows: Sequence[Row]) -> None:
    """Each figure over the number of facts, a line for each method; in a row is dashed."""
    figure = new_figure(12, 4)
    edited = [row for row in rows if row["facts"]]
    sizes = sorted({row["facts"] for row in edited})
    methods = list(dict.fromkeys(row["method"] for row in edited))
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, method in enumerate(methods):
            for way, style in ((AT_ONCE, "o-"), (IN_A_ROW, "s--")):
                of_it = [r for r in edited if (r["method"], r["way"]) == (method, way)]
                of_it.sort(key=lambda row: row["facts"])
                if of_it:
                    label = method if way == AT_ONCE else f"{method}, {way}"
                    values = [row[name] for row in of_it]
                    points = [row["facts"] for row in of_it]
                    axes.plot(points, values, style, color=f"C{number}", label=label, alpha=0.85)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("facts")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
        if name == "perplexity_ratio":
            axes.set_yscale("log")
            axes.set_ylim(0.98, RATIO_SHOWN)
            axes.set_yticks(RATIOS, [f"{ratio:g}" for ratio in RATIOS])
            axes.minorticks_off()
        else:
            axes.set_ylim(0, 103)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=8
    )
    figure.savefig(file, format="png")


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    text: Annotated[Path, typer.Option(help="Held-out text for the perplexity.")],
    home: Annotated[Path, typer.Option(help="Registry folder where z is kept.")],
    sizes: Annotated[str, typer.Option(help="Numbers of facts, by commas.")] = "1,10,100,500",
    methods: Annotated[str, typer.Option(help="By commas.")] = "memit,alphaedit,rome,ft,ultraedit",
    skip: Annotated[int, typer.Option(help="Records to leave out at the beginning.")] = 0,
    asked: Annotated[int, typer.Option(help="Records that are asked at every size.")] = 50,
    chats: Annotated[int, typer.Option(help="Of these, asked in chats too.")] = 20,
    model: Annotated[str, typer.Option(help="Model folder or hub name.")] = DEFAULT_MODEL,
    hparams: Annotated[Path | None, typer.Option(help="JSON file of hyperparameters.")] = None,
    mend: Annotated[Path | None, typer.Option(help="Network, for the method mend.")] = None,
    beside: Annotated[Path | None, typer.Option(help="Rows of an earlier run.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Measure every size by every method, smallest first, and print."""
    console = Console(width=200)
    numbers = [int(number) for number in sizes.split(",")]
    loaded = load_model(model)
    cache = CountedZ(Registry(FolderStore(home)).artefacts(loaded.digest))
    given = None if hparams is None else from_file(hparams)
    editor = Editor(loaded, given, cache=cache, network=mend)
    records = without_conflicts(COUNTERFACT.read(facts, skip=skip))[: max(numbers)]
    if len(records) < max(numbers):
        raise typer.BadParameter(f"{facts} has {len(records)} facts", param_hint="--sizes")
    questions = Options(
        generations=0, chats=chats, capability=True, held_out=text.read_text("utf-8")[:TEXT_CHARS]
    )
    with TerminalProgress(Console(stderr=True)) as progress:
        yardstick = Yardstick(editor, COUNTERFACT, spread(records, asked), questions, progress)
    compared = Comparison(editor, yardstick, records, cache, [unedited(yardstick)])
    for size, method in itertools.product(numbers, methods.split(",")):
        for way in ways_of(editor, method, size):
            with TerminalProgress(Console(stderr=True)) as compared.progress:
                row = compared.measure(method, size, way)
            compared.rows.append(row)
            console.print(size, method, way, *_cells(row), sep="  ")
            if json_out is not None:
                json_out.write_text(json.dumps(compared.rows, indent=2) + "\n")
    rows = compared.rows + ([] if beside is None else json.loads(beside.read_text())[1:])
    console.print(shown(rows))
    if chart is not None:
        draw(chart, rows)


if __name__ == "__main__":
    typer.run(main)
