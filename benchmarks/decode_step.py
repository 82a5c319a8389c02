"""What sampling costs: a decode step with options against a greedy one, side by side in one run.

    python -m benchmarks.decode_step [--rows 16] [--steps 40] [--model NAME] [--json OUT.json]

Each way has an engine of its own over the same weights, filled with as many rows of real text. The
engines take turns, one step each, so that what else the machine does meets all of them alike; a
way's ratio is the median over the turns, each against the greedy step of the same turn. Prompts are
of the packaged sample. No row ends at an end of text.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from contracts.generation import GenerateTask
from contracts.sampling import Sampling
from memit_core.corpus import default_corpus
from memit_core.default_model import DEFAULT_MODEL
from memit_core.loading import LoadedModel, load_model
from worker.answers import Installed
from worker.engine.engine import Engine
from worker.engine.versioned import ServingView

VERSION = "v0-000000000000"
PROMPT_CHARS = 300
WARM_UP = 3
NEVER = float("inf")
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.95},
    "top-k and top-p": {"temperature": 1.0, "top_k": 50, "top_p": 0.95},
    "all options": {
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 50,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": dict.fromkeys(range(100, 200), 1.0),
        "min_tokens": 1,
        "stop": ["no such text"],
    },
    "all options and 20 log-probabilities": {},
}
WAYS["all options and 20 log-probabilities"] = WAYS["all options"] | {"logprobs": 20}


def filled(loaded: LoadedModel, rows: int, steps: int, options: dict[str, Any]) -> Engine:
    """An engine whose rows are all running, and go on for `steps` more at least."""
    text = default_corpus()
    view = ServingView(loaded.model, VERSION)
    engine = Engine(
        loaded, view, Installed(), worker="w", max_batch=rows, max_context=2048, max_parked=0
    )
    length = steps + rows + WARM_UP + 1
    for row in range(rows):
        sampling = Sampling(max_tokens=length, ignore_eos=True, seed=row, **options)
        task = GenerateTask(
            id=str(row),
            prompt=text[row * PROMPT_CHARS :][:PROMPT_CHARS],
            version=VERSION,
            sampling=sampling,
            deadline=NEVER,
        )
        engine.submit(task, lambda _: None)
    while engine.waiting:
        engine.step()
    for _ in range(WARM_UP):
        engine.step()
    return engine


def seconds_of(engine: Engine, device: torch.device) -> float:
    """How long a step takes."""
    begun = time.perf_counter()
    engine.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def main(
    rows: Annotated[int, typer.Option(help="Rows decoded together.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps measured of each way.")] = 40,
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure and print."""
    loaded = load_model(model)
    engines = {name: filled(loaded, rows, steps, options) for name, options in WAYS.items()}
    turns = [
        {name: seconds_of(engine, loaded.device) for name, engine in engines.items()}
        for _ in range(steps)
    ]
    report = {
        name: {
            "milliseconds": round(1000 * median(turn[name] for turn in turns), 2),
            "ratio": round(median(turn[name] / turn["greedy"] for turn in turns), 3),
        }
        for name in WAYS
    }
    table = Table(f"{rows} rows", "ms a step", "× greedy")
    for name, figures in report.items():
        table.add_row(name, f"{figures['milliseconds']:.1f}", f"{figures['ratio']:.2f}")
    Console().print(table)
    if json_out is not None:
        threads = torch.get_num_threads()
        report_all = {"model": loaded.name, "rows": rows, "threads": threads, "ways": report}
        json_out.write_text(json.dumps(report_all, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
