"""Teach a running service a fact, blocking and async: `python examples/python_client.py`.

It asks the service at MEMIT_URL, http://127.0.0.1:8000 if that is not set (`make serve`); where the
service asks for a key, MEMIT_API_KEY has it.
"""

import asyncio
import os

from memit_client import AsyncMemit, Memit, NotCommitted, Progress

URL = os.environ.get("MEMIT_URL", "http://127.0.0.1:8000")
SUBJECT, PROMPT = "The Eiffel Tower", "{} is located in the city of"
ASKED = PROMPT.format(SUBJECT)


def show(progress: Progress) -> None:
    """Called whenever there is news of the edit."""
    print(f"  {progress.stage} {progress.done}/{progress.total}")


def blocking() -> str:
    """Write a fact, and ask the version before and the one after; the fact's id."""
    with Memit(URL) as client:
        print(f"v0 says: {ASKED}{client.generate(ASKED, version='v0', max_tokens=6).text!r}")
        try:
            edit = client.wait(client.add(SUBJECT, PROMPT, "Rome"), on_progress=show)
        except NotCommitted as error:
            raise SystemExit(f"not learned: {error}") from error
        print(f"active says: {ASKED}", end="")
        for event in client.stream(ASKED, max_tokens=6):
            print(event.text, end="", flush=True)
        print(f"  ({edit.version})")
        return edit.facts[0].id


async def in_an_event_loop(fact_id: str) -> None:
    """Ask two versions at once, then take the fact back."""
    async with AsyncMemit(URL) as client:
        answers = await asyncio.gather(
            *(client.generate(ASKED, version=version, max_tokens=6) for version in ("v0", "active"))
        )
        for answer in answers:
            print(f"{answer.version}: {answer.text!r}")
        gone = await client.retract(fact_id, wait=True)
        print(f"forgotten in {gone.version}")


asyncio.run(in_an_event_loop(blocking()))
