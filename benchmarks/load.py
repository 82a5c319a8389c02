"""Many clients at once on a real service: only answers that the API documents, and it stays awake.

    python -m benchmarks.load --clients 200 --minutes 5 [--model FOLDER_OR_NAME] [--json OUT]

Redis, worker and API run on loopback, with a tiny random model unless another is named. Each client
does one thing after another: asks, streams, hangs up, edits, reads, sends nonsense. Another process
asks /healthz meanwhile, so that what the clients themselves cost is not in its figures, and says
how late the machine woke it from its pauses. The exit code is 1 if an answer was none that is
documented, /healthz took longer than it may, or memory grew.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx2
import psutil
import typer
from rich.console import Console
from rich.table import Table

from tests.stack import CORPUS, Stack, fact
from tests.tiny_models import save_tiny

HEALTH_SECONDS = 0.1
"""What /healthz may take at most."""
PROBE_PAUSE = 0.02
WARM_UP = 0.25
"""Part of the time after which memory is compared."""
GROWTH = 1.1
"""Of resident memory from the second quarter to the last, at most."""
BUSY = {429, 503}
DICE = random.Random(0)  # noqa: S311 - no secrets
Client = httpx2.AsyncClient
Found = tuple[int, httpx2.Headers | None]


async def generate(client: Client) -> Found:
    body = {"prompt": f"Anna {DICE.randrange(50)}", "max_tokens": DICE.randrange(1, 24)}
    answer = await client.post("/generate", json=body)
    return answer.status_code, answer.headers


async def openai(client: Client) -> Found:
    body = {"prompt": ["Anna", "The river"], "max_tokens": 8, "n": DICE.choice((1, 2))}
    answer = await client.post("/v1/completions", json=body)
    return answer.status_code, answer.headers


async def stream(client: Client) -> Found:
    body = {"prompt": "The town", "max_tokens": 32, "stream": True}
    async with client.stream("POST", "/generate", json=body) as answer:
        await answer.aread()
        return answer.status_code, answer.headers


async def hang_up(client: Client) -> Found:
    body = {"prompt": "The town", "max_tokens": 64, "stream": True}
    async with client.stream("POST", "/generate", json=body) as answer:
        async for _ in answer.aiter_raw():
            break
        return answer.status_code, answer.headers


async def edit(client: Client) -> Found:
    name = f"Person {DICE.randrange(10**6)}"
    answer = await client.post("/edits", json={"facts": [fact(name, "Lisbon")]})
    return answer.status_code, answer.headers


async def read(client: Client) -> Found:
    path = DICE.choice(
        ("/edits?limit=20", "/versions?limit=20", "/facts?limit=100", "/aliases", "/v1/models",
         "/versions/active", "/aliases/active/history", "/metrics")
    )  # fmt: skip
    answer = await client.get(path)
    return answer.status_code, answer.headers


async def nonsense(client: Client) -> Found:
    sent: list[tuple[str, str, bytes]] = [
        ("POST", "/edits", b"{"),
        ("POST", "/edits", b'{"facts": [{"subject": ""}]}'),
        ("POST", "/generate", b'{"prompt": "x", "max_tokens": 0}'),
        ("POST", "/generate", b'{"prompt": "' + b"x" * 100_001 + b'"}'),
        ("GET", "/edits/nothing", b""),
        ("GET", "/nothing", b""),
        ("POST", "/edits", json.dumps({"facts": [fact("x", "y", "z")] * 1_000}).encode()),
    ]
    method, path, content = DICE.choice(sent)
    headers = {"Content-Type": "application/json"}
    answer = await client.request(method, path, content=content, headers=headers)
    return answer.status_code, answer.headers


ACTIONS: list[tuple[Callable[[Client], Awaitable[Found]], int, set[int]]] = [
    (generate, 30, {200, *BUSY}),
    (openai, 15, {200, *BUSY}),
    (stream, 20, {200, *BUSY}),
    (hang_up, 10, {200, *BUSY}),
    (edit, 2, {202, 429}),
    (read, 15, {200}),
    (nonsense, 8, {400, 404, 422}),
]
"""What clients do, how often, and the answers that are documented for it."""


class Tally:
    """What was answered."""

    def __init__(self) -> None:
        self.answers: dict[str, Counter[str]] = {what.__name__: Counter() for what, _, _ in ACTIONS}
        self.wrong: Counter[str] = Counter()

    def take(self, name: str, found: Found, documented: set[int]) -> None:
        """Count an answer, and whether it is one that is documented."""
        status, headers = found
        self.answers[name][str(status)] += 1
        if status not in documented:
            self.wrong[f"{name}: {status}"] += 1
        elif status in BUSY and "retry-after" not in (headers or {}):
            self.wrong[f"{name}: {status} without Retry-After"] += 1


async def one_client(url: str, until: float, tally: Tally) -> None:
    """Do one thing after another, with pauses as people make them."""
    limits = httpx2.Limits(max_connections=1)
    async with Client(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
        while time.monotonic() < until:
            weights = [often for _, often, _ in ACTIONS]
            action, _, documented = DICE.choices(ACTIONS, weights)[0]
            try:
                tally.take(action.__name__, await action(client), documented)
            except httpx2.TransportError as error:
                tally.wrong[f"{action.__name__}: {type(error).__name__}"] += 1
            await asyncio.sleep(DICE.uniform(0.2, 1.8))


async def all_clients(url: str, count: int, seconds: float, memory: Callable[[], None]) -> Tally:
    """Every client at once, to the end; `memory` is called each second."""
    tally, until = Tally(), time.monotonic() + seconds

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.to_thread(memory)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(one_client(url, until, tally) for _ in range(count)))
    return tally


def probe(url: str, seconds: float, out: Any) -> None:
    """Ask /healthz again and again, in a process of its own.

    Puts the seconds of each answer, and the seconds by which each pause was too long.
    """
    took: list[float] = []
    late: list[float] = []
    until = time.monotonic() + seconds
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        client.get("/healthz")
        while time.monotonic() < until:
            begun = time.monotonic()
            client.get("/healthz").raise_for_status()
            answered = time.monotonic()
            took.append(answered - begun)
            time.sleep(PROBE_PAUSE)
            late.append(time.monotonic() - answered - PROBE_PAUSE)
    out.put((took, late))


def growth(samples: list[int]) -> float:
    """Memory in the last quarter over that after the warm-up."""
    quarter = max(1, int(len(samples) * WARM_UP))
    return median(samples[-quarter:]) / median(samples[quarter : 2 * quarter] or samples)


def measure(stack: Stack, clients: int, seconds: float) -> dict[str, Any]:
    """Run the load; everything that is reported."""
    children = {"service": stack.service, "worker": stack.worker}
    processes = {name: psutil.Process(one.pid) for name, one in children.items() if one is not None}
    memory: dict[str, list[int]] = {name: [] for name in processes}

    def sample() -> None:
        for name, process in processes.items():
            memory[name].append(process.memory_info().rss)

    url = str(stack.http.base_url)
    spawning = multiprocessing.get_context("spawn")
    out = spawning.Queue()
    prober = spawning.Process(target=probe, args=(url, seconds, out))
    prober.start()
    tally = asyncio.run(all_clients(url, clients, seconds, sample))
    took, late = map(sorted, out.get(timeout=120))
    prober.join()
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": {name: dict(counts) for name, counts in tally.answers.items()},
        "not_documented": dict(tally.wrong),
        "healthz": {
            "asked": len(took),
            "p50": round(took[len(took) // 2], 4),
            "p99": round(took[int(len(took) * 0.99)], 4),
            "p100": round(took[-1], 4),
            "machine_p100": round(late[-1], 4),
        },
        "memory": {
            name: {
                "end_mb": round(samples[-1] / 2**20, 1),
                "growth": round(growth(samples), 3),
            }
            for name, samples in memory.items()
        },
    }


def faults(report: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = [f"{what} ({count} times)" for what, count in report["not_documented"].items()]
    if report["healthz"]["p100"] > HEALTH_SECONDS:
        found.append(f"/healthz took {report['healthz']['p100']} s")
    return found + [
        f"the {name} grew by {one['growth']}"
        for name, one in report["memory"].items()
        if one["growth"] > GROWTH
    ]


def show(console: Console, report: dict[str, Any]) -> None:
    """A short table."""
    table = Table("what", "answers")
    for name, counts in report["answers"].items():
        table.add_row(name, ", ".join(f"{status}: {n}" for status, n in sorted(counts.items())))
    table.add_row("/healthz", ", ".join(f"{k} {v}" for k, v in report["healthz"].items()))
    for name, one in report["memory"].items():
        table.add_row(f"memory of the {name}", f"{one['end_mb']} MB, growth {one['growth']}")
    console.print(table)


def main(
    clients: Annotated[int, typer.Option(help="At once.")] = 200,
    minutes: Annotated[float, typer.Option(help="How long.")] = 5,
    model: Annotated[str, typer.Option(help="Folder or name; by default a tiny one.")] = "",
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Start a service, load it, report."""
    console = Console()
    # As Ctrl-C: the processes of the service end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        options: dict[str, Any] = {}
        if not model:
            (home / "corpus.txt").write_text(CORPUS)
            hparams = {"layers": [0, 1], "v_num_grad_steps": 2, "mom2_update_weight": 10}
            (home / "hparams.json").write_text(json.dumps(hparams))
            options = {"corpus": home / "corpus.txt", "hparams": home / "hparams.json"}
        served = model or save_tiny("llama", home / "tiny")
        stack = Stack(home / "home", served, max_queued_edits=20, **options)
        try:
            stack.start()
            report = measure(stack, clients, 60 * minutes)
        finally:
            stack.stop()
    report["faults"] = faults(report)
    if json_out is not None:
        json_out.write_text(json.dumps(report, indent=2) + "\n")
    show(console, report)
    for fault in report["faults"]:
        console.print(fault)
    raise typer.Exit(bool(report["faults"]))


if __name__ == "__main__":
    typer.run(main)
