"""Generation through HTTP, side by side: this service, vLLM, the model's own `generate`, and the
service's engine alone.

    python -m benchmarks.serving --concurrency 1,4,16,32 [--vllm PYTHON] [--rates 0.5,2] \
        [--versions 8] [--dtype float32] [--json OUT.json] [--chart OUT.png]

Each server runs alone, in processes of its own, on the same weights and precision. The same
requests stream greedy answers of one length to the end, so many at once, or at the times of a
Poisson process; prompts are cut from the packaged sample by a seed. Reported is what vLLM's own
benchmark reports: time to the first token (TTFT), time of each token after it (TPOT), time between
two pieces of text (ITL), throughput, and goodput: requests a second that kept the times of --slo.
With --versions ours gets so many facts, one a version, and is asked on all of them at once; vLLM is
asked on the same versions as LoRA adapters.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx2
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.adapters import adapters_of, lora_arguments
from benchmarks.in_process import answers_of
from benchmarks.post_to_active import post
from benchmarks.servers import Server, ours, vllm
from benchmarks.streaming_load import Load, Question, figures, run
from memit_core.corpus import default_corpus
from memit_core.default_model import DEFAULT_MODEL, default_model_path
from memit_core.eval.chart import new_figure
from memit_core.loading import load_model
from memit_core.tokens import encode_text

Row = dict[str, Any]
PROMPT_CHARS = (100, 800)
"""Length of prompts, drawn evenly between these."""
REQUESTS = 4
"""Of a load, for each that is under way at once."""
LEAST_REQUESTS = 16
WARM_UP_TOKENS = 4
LATENCIES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL"}
COLOURS = {"memit-service": "#1f6f8b", "vLLM": "#c8553d"}
LINES = ("-", "--", ":")
"""Of a server as it is, with one edited version, and with several."""
TOWNS = ("Lisbon", "Geneva", "Berlin", "Vienna", "Paris", "Oslo", "Rome", "Turin")


def questions(
    count: int, models: Sequence[str], tokens: int, seed: str, of_length: str | None = None
) -> list[Question]:
    """Prompts from the packaged sample, the models in turn.

    Args:
        seed: another one, other prompts.
        of_length: a seed of their lengths alone, so that other prompts are as long.
    """
    text, draw = default_corpus(), random.Random(seed)  # noqa: S311 - no secrets
    lengths = draw if of_length is None else random.Random(of_length)  # noqa: S311 - no secrets
    found = []
    for i in range(count):
        length = lengths.randint(*PROMPT_CHARS)
        start = draw.randrange(len(text) - length)
        found.append(Question(text[start : start + length], models[i % len(models)], tokens))
    return found


def requests_of(load: Load, models: Sequence[str], tokens: int) -> list[Question]:
    """Of a load: the same for every server, but where versions share an engine. There none is asked
    twice of one, and others are as long."""
    count = max(LEAST_REQUESTS, REQUESTS * (load.concurrency or LEAST_REQUESTS))
    return questions(count, models, tokens, f"{len(models)} {load.name}", of_length=load.name)


def measure(server: Server, name: str, load: Load, tokens: int, slo: tuple[float, float]) -> Row:
    """One load on one server, after a warm-up."""
    asked = requests_of(load, server.models, tokens)
    warm_up = questions(2 * len(server.models), server.models, WARM_UP_TOKENS, f"warm {load.name}")
    asyncio.run(run(server.url, warm_up, Load(concurrency=2)))
    before, begun = server.cpu_seconds(), time.perf_counter()
    answers, seconds = asyncio.run(run(server.url, asked, load))
    took = time.perf_counter() - begun
    used = {
        label: round((cpu - before.get(label, 0.0)) / took, 3)
        for label, cpu in server.cpu_seconds().items()
    }
    errors = sorted({answer.error for answer in answers if answer.error})
    return {
        "server": name,
        "load": load.name,
        "concurrency": load.concurrency,
        "rate": load.rate,
        **figures(answers, seconds, slo),
        "cpu": {label: share for label, share in used.items() if share > 0.005},
        "errors": errors[:3],
    }


def post_versions(server: Server, count: int) -> None:
    """Make so many versions, of one fact more each."""
    with httpx2.Client(base_url=server.url, timeout=600, trust_env=False) as client:
        for i in range(count):
            fact = {"subject": f"Ada Okafor {i}", "prompt": "{} lives in"}
            post(client, [{**fact, "target_new": TOWNS[i % len(TOWNS)]}])


def with_versions(server: Server, count: int) -> Server:
    """The same server, asked on so many edited versions."""
    name = server.models[0].partition("@")[0]
    models = [f"{name}@v{i + 1}" for i in range(count)]
    return Server(server.name, server.url, models, server.process)


def generate_rows(model: Path, dtype: str, rows: int, tokens: int) -> Row:
    """The model's own `generate`, so many rows at once, padded on the left."""
    loaded = load_model(model, dtype=dtype)
    asked = questions(max(2 * rows, 4), [""], tokens, f"generate {rows}")
    ids = [encode_text(loaded.tokenizer, one.prompt)[0] for one in asked]
    view = loaded.runnable().view
    total, begun = 0, 0.0
    # The first of them once before: what a server does at its start is not timed either.
    for start in (0, *range(0, len(ids), rows)):
        if not begun and total:
            total, begun = 0, time.perf_counter()
        batch = ids[start : start + rows]
        width = max(map(len, batch))
        padded = torch.tensor([[0] * (width - len(row)) + list(row) for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        with torch.inference_mode():
            out = view.generate(
                padded.to(loaded.device),
                attention_mask=mask.to(loaded.device),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        total += len(batch) * (out.shape[1] - width)
    seconds = time.perf_counter() - begun
    return {
        "server": "generate",
        "load": f"{rows} rows",
        "concurrency": rows,
        "rate": None,
        "tokens_per_second": total / seconds,
    }


def engine_alone(model: Path, dtype: str, tokens: int, slo: tuple[float, float]) -> Row:
    """The engine in this process, asked what servers are asked one at a time: what HTTP and Redis
    add to the first token is the difference."""
    load = Load(concurrency=1)
    loaded = load_model(model, dtype=dtype)
    answers_of(loaded, questions(2, [""], WARM_UP_TOKENS, f"warm {load.name}"))
    answers, seconds = answers_of(loaded, requests_of(load, [""], tokens))
    return {
        "server": "the engine, in process",
        "load": load.name,
        "concurrency": load.concurrency,
        "rate": load.rate,
        **figures(answers, seconds, slo),
    }


def loads(concurrency: str, rates: str) -> Iterator[Load]:
    """From the command's options."""
    for count in filter(None, concurrency.split(",")):
        yield Load(concurrency=int(count))
    for rate in filter(None, rates.split(",")):
        yield Load(rate=float(rate))


def shown(rows: Sequence[Row]) -> Table:
    """A line for each load of each server."""
    columns = [f"{name} p50 / p99, ms" for name in LATENCIES.values()]
    table = Table("load", "server", "tokens a second", *columns, "goodput", "failures")
    for row in rows:
        latencies = [_latency(row.get(name)) for name in LATENCIES]
        good = "" if "goodput" not in row else f"{row['goodput']:.2f}"
        failed = str(row.get("failures", ""))
        speed = f"{row['tokens_per_second']:.1f}"
        table.add_row(row["load"], row["server"], speed, *latencies, good, failed)
    return table


def _latency(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['p50']:.0f} / {found['p99']:.0f}"


def draw(file: Path, rows: Sequence[Row]) -> None:
    """Throughput, and the 99th percentile between tokens, over how many are asked at once."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    closed = [row for row in rows if row.get("cpu") and row["concurrency"]]
    sizes = sorted({row["concurrency"] for row in closed})
    kinds: Counter[str] = Counter()
    for server in dict.fromkeys(row["server"] for row in closed):
        of_it = [row for row in closed if row["server"] == server]
        points = [row["concurrency"] for row in of_it]
        kind = server.partition(",")[0]
        line = LINES[kinds[kind] % len(LINES)]
        kinds[kind] += 1
        style = {"label": server, "color": COLOURS[kind], "linestyle": line, "marker": "o"}
        left.plot(points, [row["tokens_per_second"] for row in of_it], **style)
        right.plot(points, [row["itl_ms"]["p99"] for row in of_it], **style)
    for axes, title in ((left, "tokens a second"), (right, "between tokens, p99, ms")):
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("requests at once")
        axes.grid(visible=True, color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    # One answer may wait a hundred times as long as another.
    right.set_yscale("log")
    figure.savefig(file, format="png")


def main(
    concurrency: Annotated[str, typer.Option(help="Requests at once, by commas.")] = "1,4,16,32",
    rates: Annotated[str, typer.Option(help="Requests a second, by commas.")] = "",
    tokens: Annotated[int, typer.Option(help="Of every answer.")] = 64,
    versions: Annotated[int, typer.Option(help="Edited versions to ask at once.")] = 0,
    slo: Annotated[str, typer.Option(help="Seconds to the first token, and a token.")] = "2,0.2",
    model: Annotated[str, typer.Option(help="Model folder, or the default model.")] = DEFAULT_MODEL,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    rows: Annotated[str, typer.Option(help="Rows of `generate`, by commas.")] = "1,16",
    vllm_python: Annotated[Path | None, typer.Option("--vllm", help="Its Python.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Measure every server, print, write and draw."""
    console = Console(width=150)
    folder = default_model_path() if model == DEFAULT_MODEL else Path(model)
    first, each = map(float, slo.split(","))
    counts = sorted({1, versions}) if versions else []
    found: list[Row] = []

    def take(row: Row) -> None:
        found.append(row)
        speed = f"{row['tokens_per_second']:.1f} tokens a second"
        console.print(row["server"], row["load"], speed, *row.get("errors", ()), sep="  ")
        if json_out is not None:
            about = {"model": model, "dtype": dtype, "tokens": tokens, "rows": found}
            json_out.write_text(json.dumps(about, indent=2) + "\n")

    for together in filter(None, rows.split(",")):
        take(generate_rows(folder, dtype, int(together), tokens))
    take(engine_alone(folder, dtype, tokens, (first, each)))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if vllm_python is not None:
            with vllm(vllm_python, folder, place / "vllm", dtype) as server:
                for load in loads(concurrency, rates):
                    take(measure(server, "vLLM", load, tokens, (first, each)))
        adapters: dict[str, Path] = {}
        with ours(folder, place / "ours", dtype) as server:
            for load in loads(concurrency, rates):
                take(measure(server, "memit-service", load, tokens, (first, each)))
            post_versions(server, versions)
            for count in counts:
                edited = with_versions(server, count)
                name = f"memit-service, edited versions: {count}"
                for load in loads(concurrency, ""):
                    take(measure(edited, name, load, tokens, (first, each)))
            if vllm_python is not None:
                adapters = adapters_of(with_versions(server, versions), place / "adapters")
        if adapters and vllm_python is not None:
            more = lora_arguments(adapters)
            with vllm(vllm_python, folder, place / "vllm-lora", dtype, more) as server:
                for count in counts:
                    server.models = list(adapters)[:count]
                    name = f"vLLM, LoRA adapters: {count}"
                    for load in loads(concurrency, ""):
                        take(measure(server, name, load, tokens, (first, each)))
    console.print(shown(found))
    if chart is not None:
        draw(chart, found)


if __name__ == "__main__":
    typer.run(main)
