"""`python -m tests.chaos.soak --minutes 30`: everything at once for long, and whether it grows."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2

from registry import FolderStore
from registry.checkup import examine
from tests.chaos.load import Load
from tests.chaos.oracle import Oracle
from tests.chaos.samples import PROCESSES, Growth, Sample, ask_redis, growths, of_process
from tests.chaos.setting import settings_in
from tests.stack import Stack, fact

SAMPLE_SECONDS = 10.0
EDIT_SECONDS = 5.0
LIVE_FACTS = 8
"""So many are live at a time: an edit takes as long at the end as at the beginning."""
LEAST_BETWEEN_KILLS = 20.0


class Soak:
    """One service, its clients, what kills it, and what was measured."""

    def __init__(self, home: Path, seconds: float, seed: int, kills_each: int) -> None:
        """Start everything.

        Args:
            kills_each: of worker, service and Redis, in the whole soak.
        """
        self._kills_each = kills_each
        self._rng = random.Random(seed)
        self._seconds = seconds
        model, settings = settings_in(home)
        self.stack = Stack(home / "home", model, start_timeout=20, **settings)
        self.stack.start()
        self._begun = time.monotonic()
        url = f"http://127.0.0.1:{self.stack.port}"
        self.load = Load(url, self.stack.registry, Oracle(model), self._rng)
        self.samples: list[Sample] = []
        self.edits: list[str] = []
        self.kills: Counter[str] = Counter()
        self.did: Counter[str] = Counter()
        self.failed: list[str] = []
        """Edits that were not committed, and why."""
        self.wrong: list[str] = []

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def run(self) -> None:
        """Edit, retract, move aliases and kill, while clients ask; then see that all has ended."""
        self.load.start()
        between = max(LEAST_BETWEEN_KILLS, self._seconds / (len(PROCESSES) * self._kills_each + 1))
        due = {"sample": 0.0, "edit": 1.0, "kill": between if self._kills_each else float("inf")}
        while self.now < self._seconds:
            what = min(due, key=lambda name: due[name])
            time.sleep(max(0.0, min(due[what] - self.now, 1.0)))
            if due[what] > self.now:
                continue
            if what == "sample":
                self._sample()
            elif what == "edit":
                self._change()
            else:
                self._kill()
            step = {"sample": SAMPLE_SECONDS, "edit": EDIT_SECONDS, "kill": between}[what]
            due[what] = self.now + step
        self.load.stop()
        self._settle()

    def _sample(self) -> None:
        for process in PROCESSES:
            more: dict[str, Any] = {}
            if process == "redis":
                more = ask_redis(self.stack.redis.url)
            if process == "worker":
                more = {"temporary": len(self._store.temporary(0))}
            found = of_process(process, self._process(process).pid, round(self.now, 2), **more)
            self.samples += [found] if found else []
        self.load.check()
        left = timedelta(seconds=round(max(0.0, self._seconds - self.now)))
        newest = {one.process: f"{one.rss_mb:.0f} MB" for one in self.samples[-3:]}
        say(f"{left} left: {newest}, {dict(self.did)}, killed {dict(self.kills)}")

    def _change(self) -> None:
        """Add a fact, take one back, or move an alias."""
        what = self._rng.choice(["edit", "edit", "retract", "alias"])
        try:
            if what == "alias":
                version = self._rng.choice(self.stack.registry.versions.page(5)[0])
                there = self.stack.registry.aliases.epoch("stable") > 0
                answer = self.stack.http.put(
                    "/aliases/stable",
                    json={"version": version},
                    headers={"If-Match": "*"} if there else {},
                )
            else:
                live = self.stack.http.get("/facts").raise_for_status().json()["items"]
                if what == "retract" or len(live) >= LIVE_FACTS:
                    what = "retract"
                    if not live:
                        return
                    gone = [one["id"] for one in live[: max(1, len(live) - LIVE_FACTS + 2)]]
                    answer = self.stack.http.post("/edits", json={"retract": gone})
                else:
                    number = self._rng.randrange(20)
                    body = {"facts": [fact(f"Keeper number {number}", "Lisbon")]}
                    answer = self.stack.http.post("/edits", json=body)
        except httpx2.HTTPError:
            self.did["not accepted"] += 1
            return
        if answer.status_code in (200, 201, 202):
            self.did[what] += 1
            if what != "alias":
                self.edits.append(answer.json()["id"])
        elif answer.status_code in (409, 429, 503):
            self.did["not accepted"] += 1
        else:
            self.wrong.append(f"{what}: {answer.status_code} {answer.text}")

    def _kill(self) -> None:
        victim = PROCESSES[sum(self.kills.values()) % len(PROCESSES)]
        if victim == "service":
            self.load.service_goes()
        process = self._process(victim)
        process.kill()
        process.wait()
        self.kills[victim] += 1
        time.sleep(self._rng.random())
        if victim == "redis":
            self.stack.redis.start()
        else:
            getattr(self.stack, f"start_{victim}")()
        if victim == "service":
            self.stack.until(self._healthy, "the service again")
            self.load.service_is_back()

    def _settle(self) -> None:
        """Every edit ends, once; what is left in the registry is sound."""
        registry = self.stack.registry
        for edit_id in self.edits:
            end = self.stack.until(
                lambda edit_id=edit_id: registry.edits.recorded_end(edit_id), edit_id
            )
            self.did[f"edits {end.state.value}"] += 1
            if end.problem is not None:
                # A fact may be taken back twice before the first of both is done.
                self.failed.append(f"{edit_id}: {end.problem.detail}")
                if end.problem.status != HTTPStatus.CONFLICT:
                    self.wrong.append(self.failed[-1])
        self.load.check()
        self._sample()
        self.wrong += self.load.wrong
        made = Counter(
            registry.versions.get(one).edit_id for one in registry.versions.page(100_000)[0]
        )
        self.wrong += [f"{one} made {count} versions" for one, count in made.items() if count > 1]
        self.wrong += [str(one) for one in examine(registry).findings]
        left, killed = len(self._store.temporary(0)), sum(self.kills.values())
        if left > killed:
            self.wrong.append(f"{left} temporary files after {killed} kills")

    @property
    def _store(self) -> FolderStore:
        return FolderStore(self.stack.home / "registry")

    def _process(self, name: str) -> Any:
        return self.stack.redis.process if name == "redis" else getattr(self.stack, name)

    def _healthy(self) -> bool:
        try:
            return self.stack.http.get("/healthz").status_code == 200
        except httpx2.HTTPError:
            return False


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def draw(samples: list[Sample], file: Path) -> None:
    """Every measure over time, a line a life."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measures = ("rss_mb", "files", "threads", "keys", "all_keys", "redis_mb", "temporary")
    figure, axes = pyplot.subplots(len(measures), 1, figsize=(9, 14), sharex=True)
    for axis, measure in zip(axes, measures, strict=True):
        for pid in dict.fromkeys(sample.pid for sample in samples):
            life = [s for s in samples if s.pid == pid and getattr(s, measure) is not None]
            if life:
                color = f"C{PROCESSES.index(life[0].process)}"
                values = [getattr(s, measure) for s in life]
                minutes = [s.at / 60 for s in life]
                axis.plot(minutes, values, color=color, marker=".", label=life[0].process)
        axis.set_ylabel(measure)
        axis.set_ylim(bottom=0)
    lines = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(lines.values(), lines.keys(), loc="upper center", ncols=len(lines), frameon=False)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(file)


def report(soak: Soak, found: list[Growth], folder: Path) -> None:
    """`soak.json` and `soak.png` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "did": soak.did,
        "kills": soak.kills,
        "answers": soak.load.counts,
        "failed": soak.failed,
        "wrong": soak.wrong,
        "growth": [one.record for one in found],
        "samples": [one.record for one in soak.samples],
    }
    (folder / "soak.json").write_text(json.dumps(written, indent=1))
    draw(soak.samples, folder / "soak.png")


def main() -> int:
    """1 if something leaks or a promise did not hold."""
    parser = ArgumentParser("python -m tests.chaos.soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills-each", type=int, default=2, help="of worker, service and Redis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="folder of the report")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memit-soak-") as home:
        soak = Soak(Path(home), asked.minutes * 60, asked.seed, asked.kills_each)
        try:
            soak.run()
        finally:
            soak.stack.stop()
    found = growths(soak.samples)
    report(soak, found, asked.out)
    for one in found:
        say(
            f"{'LEAK ' if one.leak else ''}{one.process} {one.measure}: mean {one.mean:g}, "
            f"{one.an_hour:+g} an hour over {one.seconds:g} s"
        )
    if not found:
        say("no process lived long enough for a fit: take at least 30 minutes")
    say(f"answers {dict(soak.load.counts)}; {dict(soak.did)}; killed {dict(soak.kills)}")
    for text in soak.failed:
        say(f"failed {text}")
    for text in soak.wrong:
        say(f"WRONG {text}")
    say(f"{asked.out}/soak.json, {asked.out}/soak.png")
    return 1 if soak.wrong or any(one.leak for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
