"""What streams notice when something happens beside them: swaps, an edit, a long prompt, a death.

    python -m benchmarks.disturbances [--streams 4] [--seconds 60] [--facts 50] [--json OUT.json]

So many clients stream greedy answers of one length, one after another, through HTTP; every line is
the same load, with nothing else and then with

- requests of other kinds, one after another: pinned to a version, of two choices, hung up on.
- these and swaps: `active` moves to the other of two versions every 5 s. Every answer is compared
  with what its version says alone.
- an edit of so many facts, which runs on the same processors.
- long prompts: a prompt of 1,500 tokens every 10 s.
- a system prompt: time to the first token of chats that begin with the same 500 tokens, alone.
- two workers, one killed: requests without streams, of which one worker dies by SIGKILL; and how
  long until every worker knows that `active` moved.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.mixed_requests import Mixed
from benchmarks.servers import Server, ours
from benchmarks.serving import TOWNS, post_versions, questions
from benchmarks.streaming_load import TIMEOUT, Answer, Question, ask
from cli.embedded_redis import EmbeddedRedis
from memit_core.corpus import default_corpus
from memit_core.default_model import DEFAULT_MODEL, default_model_path

Row = dict[str, Any]
Event = Callable[[httpx2.AsyncClient], Awaitable[Any]]

SWAP_SECONDS, LONG_SECONDS = 5.0, 10.0
LONG_CHARS, SYSTEM_CHARS = 6_000, 2_000
"""About 1,500 and 500 tokens."""
PROMPTS = 8
OTHERS, SWAPS = "other requests", "other requests and swaps"
REPLICA_REQUESTS = 40


def client_of(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False)


async def steady(
    url: str, asked: Sequence[Question], streams: int, seconds: float, event: Event | None = None
) -> tuple[list[Answer], float]:
    """So many streams at once, until the time is over and the event beside them has ended.

    Returns:
        All answers, and the seconds that they took.
    """
    answers: list[Answer] = []
    in_turn = itertools.cycle(asked)
    begun, over = time.perf_counter(), asyncio.Event()

    async def stream(client: httpx2.AsyncClient) -> None:
        while not over.is_set():
            answers.append(await ask(client, next(in_turn)))

    async with client_of(url) as client:
        running = [asyncio.create_task(stream(client)) for _ in range(streams)]
        if event is None:
            await asyncio.sleep(seconds)
        else:
            await event(client)
        over.set()
        await asyncio.gather(*running)
    return answers, time.perf_counter() - begun


def row_of(name: str, answers: Sequence[Answer], seconds: float) -> Row:
    good = [one for one in answers if one.error is None]
    gaps = np.concatenate([np.diff(one.times) for one in good if len(one.times) > 1]) * 1_000
    return {
        "beside": name,
        "answers": len(answers),
        "failures": len(answers) - len(good),
        "tokens_per_second": sum(one.tokens for one in good) / seconds,
        "ttft_ms": round(1_000 * median(one.times[0] for one in good)),
        "itl_ms": {f"p{p}": round(float(np.percentile(gaps, p))) for p in (50, 99)},
        "longest_gap_ms": round(float(gaps.max())),
        "errors": sorted({one.error for one in answers if one.error})[:3],
    }


async def activate(client: httpx2.AsyncClient, version: str) -> None:
    """Move `active`."""
    now = await client.get("/aliases/active")
    moved = await client.put(
        "/aliases/active", json={"version": version}, headers={"If-Match": now.headers["etag"]}
    )
    moved.raise_for_status()


async def swap(client: httpx2.AsyncClient, seconds: float) -> None:
    """Move `active` to and fro."""
    end = time.perf_counter() + seconds
    for version in itertools.cycle(("v1", "v2")):
        if time.perf_counter() > end:
            return
        await activate(client, version)
        await asyncio.sleep(SWAP_SECONDS)


def other_kinds(
    mixed: Mixed, asked: Sequence[Question], seconds: float, *, swapping: bool
) -> Event:
    """Requests of other kinds, and swaps if so asked."""

    async def event(client: httpx2.AsyncClient) -> None:
        listed = (await client.get("/versions")).raise_for_status().json()["items"]
        versions = [one["id"] for one in listed if one["id"].startswith(("v1-", "v2-"))]
        over = asyncio.Event()
        sent = asyncio.create_task(mixed.send(client, asked, versions, over))
        await (swap(client, seconds) if swapping else asyncio.sleep(seconds))
        over.set()
        await sent

    return event


def edit(count: int) -> Event:
    facts = [
        {
            "subject": f"Bruno Keller {i}",
            "prompt": "{} lives in",
            "target_new": TOWNS[i % len(TOWNS)],
        }
        for i in range(count)
    ]

    async def event(client: httpx2.AsyncClient) -> None:
        posted = await client.post("/edits", json={"facts": facts, "activate": False})
        posted.raise_for_status()
        found = posted.json()
        while found["state"] in ("queued", "running"):
            await asyncio.sleep(0.5)
            found = (await client.get(f"/edits/{found['id']}")).json()
        if found["state"] != "committed":
            raise RuntimeError(f"{found['id']} is {found['state']}: {found.get('problem')}")

    return event


def long_prompts(seconds: float, model: str) -> Event:
    async def event(client: httpx2.AsyncClient) -> None:
        text, end = default_corpus(), time.perf_counter() + seconds
        for start in itertools.count(0, 50):
            if time.perf_counter() > end:
                return
            await ask(client, Question(text[start : start + LONG_CHARS], model, 1))
            await asyncio.sleep(LONG_SECONDS)

    return event


async def wrong_answers(url: str, answers: Sequence[Answer]) -> int:
    """How many are not what their version says when it is asked alone."""
    alone: dict[tuple[str, str], str] = {}
    async with client_of(url) as client:
        for one in answers:
            key = (one.question.prompt, one.version)
            if one.error is None and key not in alone:
                name = one.question.model.partition("@")[0]
                asked = Question(one.question.prompt, f"{name}@{one.version}", one.tokens)
                alone[key] = (await ask(client, asked)).text
    return sum(
        one.error is None and one.text != alone[one.question.prompt, one.version] for one in answers
    )


async def checked(url: str, answers: Sequence[Answer], mixed: Mixed) -> Row:
    """What became of requests of other kinds, and how many of all answers are not one version's."""
    wrong = await wrong_answers(url, [*answers, *mixed.answers])
    return {
        "wrong": wrong + len(mixed.astray),
        "versions": sorted({one.version for one in answers}),
        "other_answers": len(mixed.answers),
        "other_failures": sum(one.error is not None for one in mixed.answers),
        "hung_up": mixed.hung_up,
    }


async def system_prompt(url: str, model: str) -> Row:
    """First tokens of chats: of a new system prompt, and of the same one again."""
    text, first, again = default_corpus(), list[float](), list[float]()
    async with client_of(url) as client:
        for number in range(3):
            start = 7_000 * (number + 1)
            system = text[start : start + SYSTEM_CHARS]
            for place, question in enumerate(("Who is that?", "Where is it?", "Why?", "When?")):
                messages = [("system", system), ("user", question)]
                body = {
                    "model": model,
                    "messages": [{"role": role, "content": said} for role, said in messages],
                    "max_tokens": 1,
                }
                begun = time.perf_counter()
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                (again if place else first).append(time.perf_counter() - begun)
    return {"first_ms": round(1_000 * median(first)), "again_ms": round(1_000 * median(again))}


@contextmanager
def another_engine(
    model: Path, home: Path, redis_url: str, server: Server
) -> Iterator[subprocess.Popen[bytes]]:
    """A second worker that generates, on the same Redis and registry, ready."""
    command = [sys.executable, "-m", "worker", "--role", "engine"]
    settings = {"REDIS_URL": redis_url, "MEMIT_HOME": str(home)}
    with (home / "engine.log").open("wb") as log:
        env = {**os.environ, **settings, "MEMIT_MODEL": str(model)}
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        while sum(one["ready"] for one in _workers(server)) < 2:
            if process.poll() is not None:
                raise RuntimeError(f"the second worker ended: {home / 'engine.log'}")
            time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.wait()


def _workers(server: Server) -> list[Row]:
    answer = httpx2.get(f"{server.url}/workers", trust_env=False)
    found: list[Row] = answer.raise_for_status().json()["workers"]
    return found


def _converged(server: Server, version: str) -> float:
    """Seconds until all workers follow `active` to a version."""
    begun = time.perf_counter()
    while not all((one["active"] or "").startswith(f"{version}-") for one in _workers(server)):
        time.sleep(0.05)
    return time.perf_counter() - begun


async def replicas(server: Server, engine: subprocess.Popen[bytes], model: str) -> Row:
    """Requests without streams while a worker dies; before it, how long an alias takes."""
    converged, statuses = list[float](), list[int]()
    async with client_of(server.url) as client:
        for version in ("v1", "v2", "v1"):
            await activate(client, version)
            converged.append(_converged(server, version))

        async def one(question: Question) -> None:
            body = {"model": model, "prompt": question.prompt, "max_tokens": 48, "temperature": 0}
            statuses.append((await client.post("/v1/completions", json=body)).status_code)
            if len(statuses) == REPLICA_REQUESTS // 8:
                engine.kill()

        await asyncio.gather(*map(one, questions(REPLICA_REQUESTS, [model], 48, "replicas")))
    return {
        "convergence_s": round(max(converged), 2),
        "requests": len(statuses),
        "failed": sum(status != httpx2.codes.OK for status in statuses),
    }


def shown(rows: Sequence[Row]) -> Table:
    table = Table(
        "beside", "answers", "failures", "tokens a second", "TTFT, ms", "ITL p50 / p99, ms",
        "longest gap, ms", "wrong answers",
    )  # fmt: skip
    for row in rows:
        itl = row["itl_ms"]
        table.add_row(
            row["beside"],
            str(row["answers"]),
            str(row["failures"]),
            f"{row['tokens_per_second']:.1f}",
            str(row["ttft_ms"]),
            f"{itl['p50']} / {itl['p99']}",
            str(row["longest_gap_ms"]),
            str(row.get("wrong", "")),
        )
    return table


def main(
    streams: Annotated[int, typer.Option(help="Streams at once.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 60,
    tokens: Annotated[int, typer.Option(help="Of every answer.")] = 48,
    facts: Annotated[int, typer.Option(help="Of the edit.")] = 50,
    model: Annotated[str, typer.Option(help="Model folder, or the default model.")] = DEFAULT_MODEL,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure, print and write."""
    path = default_model_path() if model == DEFAULT_MODEL else Path(model)
    console, found = Console(width=130), dict[str, Any]()
    rows: list[Row] = []
    found["rows"] = rows

    def keep() -> None:
        if json_out is not None:
            json_out.write_text(json.dumps(found, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        redis = EmbeddedRedis(Path(scratch) / "redis")
        redis.start()
        try:
            settings = {"REDIS_URL": redis.url}
            with ours(path, home, "float32", settings) as server:
                post_versions(server, 2)
                name = server.models[0]
                asked = questions(PROMPTS, [name], tokens, "disturbances")
                # The same load first and last, so that a slower machine in between shows.
                mixed = {way: Mixed() for way in (OTHERS, SWAPS)}
                for beside, event in (
                    ("nothing", None),
                    *(
                        (way, other_kinds(mixed[way], asked, seconds, swapping=way == SWAPS))
                        for way in mixed
                    ),
                    (f"an edit of {facts}", edit(facts)),
                    ("long prompts", long_prompts(seconds, name)),
                    ("nothing, again", None),
                ):
                    answers, took = asyncio.run(steady(server.url, asked, streams, seconds, event))
                    row = row_of(beside, answers, took)
                    if beside in mixed:
                        row |= asyncio.run(checked(server.url, answers, mixed[beside]))
                    rows.append(row)
                    console.print(row)
                    keep()
                found["system_prompt"] = asyncio.run(system_prompt(server.url, name))
                console.print(found["system_prompt"])
                with another_engine(path, home, redis.url, server) as engine:
                    found["replicas"] = asyncio.run(replicas(server, engine, name))
                console.print(found["replicas"])
        finally:
            redis.stop()
    keep()
    console.print(shown(rows))


if __name__ == "__main__":
    typer.run(main)
