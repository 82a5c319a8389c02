"""The whole loop, for real: a language model learns facts while it goes on answering.

Starts Redis, worker and API in a fresh home, asks every prompt of `examples/facts.jsonl`, posts the
facts, asks again, takes the last fact back, and stops everything. The last line on stdout is JSON;
the exit code is 0 if nine facts of ten were learned, the retraction gave back the weights without
the fact, and no generation failed meanwhile.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from rich.console import Console

from cli import output
from cli.client import Client
from cli.embedded import embedded
from cli.errors import CommandFailed
from cli.facts_file import read_facts
from cli.follow import follow
from cli.readiness import Readiness
from cli.supervisor import in_background
from contracts.edits import Edit, EditRequest, EditState
from contracts.facts import Fact
from contracts.generation import Generation
from contracts.settings import Settings
from contracts.versions import Version

FACTS = Path(__file__).parent.parent / "examples" / "facts.jsonl"
ANSWER_TOKENS = 12
ASK_AT_ONCE = 8
PAUSE_SECONDS = 0.5
MIN_LEARNED = 0.9


def main() -> int:
    """Run the demo; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    console = Console(stderr=True)
    facts = [line.fact for line in read_facts(str(FACTS))]
    with tempfile.TemporaryDirectory(prefix="memit-demo-") as home:
        own = {"home": home, "port": 0, "MEMIT_REDIS_URL": None}
        try:
            with service(Settings.model_validate(own), console) as client:
                outcome = show(client, facts, console)
        except CommandFailed as failure:
            keep_logs(Path(home), console)
            output.say(console, f"the demo failed: {failure}", "red")
            return 1
        except KeyboardInterrupt:
            return 130
    result = {
        "facts": len(facts),
        "learned": outcome.learned,
        "retracted_ok": outcome.retracted_ok,
        "version": outcome.version,
        "seconds": round(time.monotonic() - begun, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if outcome.good(len(facts)) else 1


def keep_logs(home: Path, console: Console) -> None:
    """The home goes away with the demo; what explains a failure does not."""
    logs = home / "logs"
    if logs.is_dir():
        kept = shutil.copytree(
            logs, tempfile.mkdtemp(prefix="memit-demo-logs-"), dirs_exist_ok=True
        )
        output.say(console, f"the logs are kept in {kept}")


@dataclass
class Outcome:
    """What the demo saw."""

    learned: int
    retracted_ok: bool
    version: str
    failed_answers: int

    def good(self, facts: int) -> bool:
        enough = self.learned >= MIN_LEARNED * facts
        return enough and self.retracted_ok and self.failed_answers == 0


@contextmanager
def service(settings: Settings, console: Console) -> Iterator[Client]:
    """The service, started, ready, and stopped at the end.

    Raises:
        CommandFailed: it did not become ready, or gave up.
    """

    def report(line: str) -> None:
        output.say(console, line, "dim")

    with (
        embedded(settings, report) as house,
        in_background(house.supervisor) as thread,
        Client(house.url) as client,
    ):
        with Readiness(house, console) as readiness:
            readiness.wait(thread)
        yield client


def show(client: Client, facts: Sequence[Fact], console: Console) -> Outcome:
    """Teach the facts, the last one alone, and take that one back."""
    *many, last = facts
    heading(console, f"asking {len(facts)} prompts of the model as it is")
    before = answers(client, facts)
    with Meanwhile(client.url, facts[0].filled) as meanwhile:
        heading(console, f"teaching {len(many)} facts")
        without = taught(client, many, console)
        heading(console, "teaching one more")
        taught(client, [last], console)
    output.say(console, meanwhile.summary())
    after = answers(client, facts)
    learned = [
        answer.startswith(fact.target_new) for fact, answer in zip(facts, after, strict=True)
    ]
    console.print(
        output.table(
            ("prompt", "before", "after", "learned"),
            (
                (fact.filled, first_line(old), first_line(new), output.yes_or_no(one))
                for fact, old, new, one in zip(facts, before, after, learned, strict=True)
            ),
        )
    )
    heading(console, f"taking back: {last.filled} {last.target_new}")
    retraction = client.read(Edit, client.call("DELETE", f"/facts/{last.id}"))
    version = version_of(client, committed(client, retraction, console))
    answer = answers(client, [last])[0]
    same = blobs_of(version) == blobs_of(without)
    gone = not answer.startswith(last.target_new)
    output.say(console, f"{last.filled}: {first_line(answer)}")
    has = "has" if same else "DOES NOT HAVE"
    output.say(console, f"{version.id} {has} the weights of {without.id}, bit for bit")
    return Outcome(sum(learned), same and gone, version.id, len(meanwhile.failures))


def taught(client: Client, facts: Sequence[Fact], console: Console) -> Version:
    """The version that knows `facts` besides what was known."""
    body = EditRequest(facts=list(facts)).model_dump(mode="json", exclude_defaults=True)
    accepted = client.read(Edit, client.call("POST", "/edits", body=body))
    return version_of(client, committed(client, accepted, console))


def committed(client: Client, accepted: Edit, console: Console) -> Edit:
    """Follow an edit to its commit.

    Raises:
        CommandFailed: it ended otherwise.
    """
    ended = follow(client, accepted.id, console)
    if ended.state is not EditState.COMMITTED:
        why = ended.problem.detail if ended.problem else ""
        raise CommandFailed(f"{ended.id} was {ended.state}: {why}")
    return ended


def version_of(client: Client, edit: Edit) -> Version:
    return client.get(Version, f"/versions/{edit.version}")


def blobs_of(version: Version) -> dict[str, str]:
    """Digest of the change of each edited matrix."""
    return {weights.module: weights.blob for weights in version.weights}


def answers(client: Client, facts: Sequence[Fact]) -> list[str]:
    """The active version's greedy answer to the prompt of each fact."""
    with ThreadPoolExecutor(ASK_AT_ONCE) as pool:
        asked = pool.map(lambda fact: ask(client, fact.filled), facts)
        return [answer.text.strip() for answer in asked]


def ask(client: Client, prompt: str) -> Generation:
    body = {"prompt": prompt, "max_tokens": ANSWER_TOKENS}
    return client.read(Generation, client.call("POST", "/generate", body=body))


def first_line(text: str) -> str:
    return text.partition("\n")[0]


def heading(console: Console, text: str) -> None:
    console.rule(text, align="left", style="dim")


@dataclass
class Meanwhile:
    """Asks the active version again and again, from a thread, while the context lasts."""

    url: str
    prompt: str
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def __enter__(self) -> Meanwhile:
        self._over = Event()
        self._thread = Thread(target=self._ask_on, name="meanwhile")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask_on(self) -> None:
        with Client(self.url) as client:
            while not self._over.is_set():
                begun = time.monotonic()
                try:
                    self.versions.append(ask(client, self.prompt).version)
                except CommandFailed as failure:
                    self.failures.append(str(failure))
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self._over.wait(PAUSE_SECONDS)

    def summary(self) -> str:
        """How answering went on."""
        by = ", ".join(
            f"{self.versions.count(one)} by {one}" for one in dict.fromkeys(self.versions)
        )
        failed = f"{len(self.failures)} failed" if self.failures else "none failed"
        return (
            f"meanwhile {len(self.versions)} prompts were answered ({by}), {failed}; "
            f"the slowest took {self.slowest:.1f} s"
            + "".join(f"\n  {why}" for why in self.failures)
        )


if __name__ == "__main__":
    sys.exit(main())
