"""Seconds a fact at the shape of a large model, random weights, in bfloat16 on one GPU.

    python -m benchmarks.edit_gpu [--shape llama-3-8b] [--facts 1000] [--json OUT.json]

Random weights never learn a fact before the last step, so every fact costs all its steps: real ones
cost less. Nothing is fetched: weights and tokenizer are made on the spot. `--shape tiny --device
cpu` tries the code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.measuring import Cost, counted, timed
from benchmarks.quality import Bench
from benchmarks.random_model import SHAPES, random_model
from memit_core.facts import Fact, Group, group_facts
from memit_core.hparams import HParams, from_dict
from memit_core.loading import pick_device
from memit_core.precision import matmul_rate
from memit_core.preset import presets

COUNT_FACTS = 8
GOAL_FACTS = 10_000
RATE_SIZE = {"cuda": 8_192}
PLACES = ("north", "south", "east", "west", "upper", "lower", "old", "new", "inner", "outer")
KINDS = ("harbour", "river", "bridge", "tower", "college", "orchard", "station", "museum")
TARGETS = ("Lisbon", "Vienna", "Oslo", "Quito", "Cairo", "Hanoi", "Perth")
PROMPTS = ("{} is located in the city of", "The visitors of {} arrive in", "{} belongs to")


def made_up(count: int) -> list[Group]:
    """Facts of as many subjects, of names and prompts of different length."""
    facts = []
    for i in range(count):
        place, kind = PLACES[i % len(PLACES)], KINDS[i // len(PLACES) % len(KINDS)]
        subject = f"The {place} {kind} of Saint {chr(65 + i % 26)}{i}"
        facts.append(Fact(subject, PROMPTS[i % len(PROMPTS)], TARGETS[i % len(TARGETS)]))
    return group_facts(facts)


def hparams(shape: str, covariance_tokens: int) -> HParams:
    preset = presets()["gpt-j-6b" if shape == "tiny" else shape]["hparams"]
    changed = {"layers": [2, 3, 4]} if shape == "tiny" else {}
    return from_dict({**preset, **changed, "mom2_n_tokens": covariance_tokens})


def main(
    facts: Annotated[int, typer.Option(help="Facts at once.")] = 1_000,
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "gpt-j-6b",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    covariance_tokens: Annotated[int, typer.Option(help="Tokens of the covariance.")] = 40_000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure z and insertion, and print."""
    place = pick_device(device)
    loaded = random_model(shape, place)
    bench = Bench(loaded)
    editor = bench.editor(hparams(shape, covariance_tokens))
    rate = matmul_rate(place, loaded.dtype, RATE_SIZE.get(place.type, 1_024), 1.0)
    stages = {name: Cost() for name in ("covariance", "z", "insertion")}
    with timed(stages["covariance"], 1, place):
        editor.prepare()
    groups = made_up(facts)
    few = made_up(min(COUNT_FACTS, facts))
    with counted(stages["z"], facts / len(few)):
        bench.editor(editor.hparams).targets(few)
    with timed(stages["z"], facts, place):
        editor.targets(groups)
    with counted(stages["insertion"]):
        editor.solve(groups)
    with timed(stages["insertion"], facts, place):
        editor.solve(groups)
    report = {
        "shape": shape,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "matmul_flop_per_second": rate,
        "stages": {name: cost.as_dict(rate) for name, cost in stages.items()},
    }
    each = sum(stages[name].seconds / facts for name in ("z", "insertion"))
    report["minutes_for_10000_facts"] = round(GOAL_FACTS * each / 60, 2)
    Console().print_json(data=report)
    if json_out is not None:
        json_out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
