"""The paper's procedure against this package's, stage by stage, on the same facts in one run.

    python -m benchmarks.edit_throughput FACTS.json [--z-facts 64] [--insert-facts 100] \
        [--plain-facts N] [--model NAME] [--json OUT.json]

FACTS.json holds CounterFact records. Plain: one fact at a time, full forwards, float32. Ours: in
float32, and in bfloat16 where the device has fast products of it; with all that the hyperparameters
add to the paper's insertion. Every stage runs once; FLOP are counted in a run of their own. Prints
a table and writes JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.measuring import Cost, counted, timed
from benchmarks.plain import PlainMemit
from benchmarks.quality import COLUMNS, FIGURES, Bench, figures
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.datasets import COUNTERFACT
from memit_core.facts import Group, group_facts
from memit_core.loading import load_model
from memit_core.precision import matmul_rate, z_dtype

COUNT_FACTS = 8
RATE_SIZE, RATE_SECONDS = 2_048, 2.0


def plain_z(base: Editor, groups: Sequence[Group]) -> tuple[Cost, list[torch.Tensor]]:
    """z one by one; FLOP as counted of the first."""
    cost, plain = Cost(), PlainMemit(base)
    with counted(cost, len(groups)):
        plain.compute_z(groups[0])
    z = []
    for group in track(groups, description="plain z"):
        with timed(cost, 1, base.loaded.device):
            z.append(plain.compute_z(group))
    return cost, z


def our_z(bench: Bench, dtype: str, groups: Sequence[Group]) -> tuple[Cost, Editor]:
    """z of all groups together; FLOP as counted of the first few."""
    cost, editor = Cost(), bench.editor(z_dtype=dtype)
    few = groups[:COUNT_FACTS]
    with counted(cost, len(groups) / len(few)):
        bench.editor(z_dtype=dtype).targets(few)
    with timed(cost, len(groups), bench.loaded.device):
        editor.targets(groups)
    return cost, editor


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    z_facts: Annotated[int, typer.Option(help="Facts whose z is optimised.")] = 64,
    insert_facts: Annotated[int, typer.Option(help="Facts that are inserted.")] = 100,
    plain_facts: Annotated[int, typer.Option(help="Of the z, how many also plainly.")] = 64,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure and print."""
    records = {r.request: r for r in COUNTERFACT.read(facts)}
    groups = [g for g in group_facts(records) if len(g.facts) == 1]
    chosen = groups[:z_facts]
    plain_groups = chosen[:plain_facts]
    asked = [records[group.facts[0]] for group in plain_groups]
    bench = Bench(load_model(model))
    device = bench.loaded.device
    rates = {
        name: matmul_rate(device, dtype, RATE_SIZE, RATE_SECONDS)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    fast = str(z_dtype(device, bench.loaded.dtype)).removeprefix("torch.")
    ours = dict.fromkeys(("float32", fast))
    report: dict[str, Any] = {"model": bench.loaded.name, "matmul_flop_per_second": rates}
    stages: dict[str, dict[str, float]] = {}
    quality: dict[str, dict[str, float]] = {}

    def keep(name: str, cost: Cost, dtype: str) -> None:
        stages[name] = cost.as_dict(rates[dtype])
        Console().print(name, stages[name])

    base = bench.editor()
    base.prepare()
    quality["unedited"] = figures(base.base, asked)
    for dtype in ours:
        cost, editor = our_z(bench, dtype, chosen)
        keep(f"z, ours {dtype}", cost, dtype)
        edited = editor.model_with(editor.solve(plain_groups))
        quality[f"ours {dtype}"] = figures(edited, asked)
    plain_cost, plain_zs = plain_z(base, plain_groups)
    keep("z, plain float32", plain_cost, "float32")
    plain = PlainMemit(base)
    quality["plain float32"] = figures(plain.insert(plain_groups, plain_zs), asked)
    inserted = groups[:insert_facts]
    z = [target.z for target in editor.targets(inserted)]
    few, few_z = inserted[:COUNT_FACTS], z[:COUNT_FACTS]
    cost = Cost()
    with counted(cost, len(inserted) / len(few)):
        plain.insert(few, few_z)
    with timed(cost, len(inserted), device):
        plain.insert(inserted, z)
    keep("insertion, plain", cost, "float32")
    cost = Cost()
    with counted(cost):
        editor.solve(inserted)
    with timed(cost, len(inserted), device):
        editor.solve(inserted)
    keep("insertion, ours", cost, "float32")
    per_fact = {name: stage["seconds_per_fact"] for name, stage in stages.items()}
    report["stages"] = stages
    report["quality"] = quality
    report["speedup"] = {
        f"z {dtype}": round(per_fact["z, plain float32"] / per_fact[f"z, ours {dtype}"], 2)
        for dtype in ours
    } | {"insertion": round(per_fact["insertion, plain"] / per_fact["insertion, ours"], 2)}
    report["threads"] = torch.get_num_threads()
    show(report)
    if json_out is not None:
        json_out.write_text(json.dumps(report, indent=2) + "\n")


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    console = Console()
    table = Table("stage", "facts", "s a fact", "GFLOP a fact", "of matmul rate", "peak MB")
    for name, stage in report["stages"].items():
        table.add_row(
            name,
            str(int(stage["facts"])),
            f"{stage['seconds_per_fact']:.3f}",
            f"{stage['gflop_per_fact']:.1f}",
            f"{100 * stage['share_of_matmul_rate']:.0f} %",
            f"{stage['peak_bytes'] / 1e6:.0f}",
        )
    console.print(table)
    table = Table("weights", *COLUMNS)
    for name, values in report["quality"].items():
        table.add_row(name, *(f"{values[figure]:.1f}" for figure in FIGURES))
    console.print(table)
    console.print("times as fast: " + ", ".join(f"{k} {v}" for k, v in report["speedup"].items()))


if __name__ == "__main__":
    typer.run(main)
