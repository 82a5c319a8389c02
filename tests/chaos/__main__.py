"""`python -m tests.chaos`: kills at every point of an edit, and other faults by their names."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.kills import Kill, Lane
from tests.chaos.lab import try_fault
from tests.chaos.oracle import Oracle
from tests.chaos.points import POINTS, VICTIMS
from tests.chaos.setting import settings_in

KILLS_A_HOME = 25
"""Then a new registry is begun: looking through a large one takes long."""


class Run:
    """Kills on several services side by side."""

    def __init__(self, asked: Namespace, folder: Path) -> None:
        self._asked, self._folder = asked, folder
        self._model, self._settings = settings_in(folder)
        self._oracle = Oracle(self._model)
        self._numbers = iter(range(asked.first, asked.first + asked.kills))
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self.done: list[Kill] = []
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        lanes = [threading.Thread(target=self._lane, args=(i,)) for i in range(self._asked.lanes)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _lane(self, place: int) -> None:
        homes = 0
        while numbers := self._take(KILLS_A_HOME):
            homes += 1
            home = self._folder / f"lane-{place}-home-{homes}"
            settings = {**self._settings, "quick": not self._asked.real_times}
            lane = Lane(home, self._model, self._oracle, self._asked.seed, **settings)
            try:
                for number in numbers:
                    self._note(lane.kill(number))
            finally:
                lane.close()
                with self._lock:
                    self.answers += lane.load.counts

    def _take(self, count: int) -> list[int]:
        with self._lock:
            return [number for _, number in zip(range(count), self._numbers, strict=False)]

    def _note(self, kill: Kill) -> None:
        with self._lock:
            self.done.append(kill)
            count, spent = len(self.done), time.monotonic() - self._begun
            left = timedelta(seconds=round(spent / count * (self._asked.kills - count)))
            failed = sum(bool(one.wrong) for one in self.done)
            say(
                f"{count}/{self._asked.kills} kills, {failed} failed, {left} left: "
                f"{kill.victim} at '{kill.point}' {kill.nth}, end after {kill.seconds:g} s"
            )
            for one in kill.wrong:
                say(f"  WRONG {one}")
            if kill.wrong:
                say(
                    f"  again: python -m tests.chaos --seed {self._asked.seed} "
                    f"--first {kill.number} --kills 1"
                )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(done: Iterable[Kill]) -> str:
    """By point: kills of each victim, failures, seconds to the edit's end."""
    rows = [
        f"{'point':<18}" + "".join(f"{one:>9}" for one in VICTIMS) + "   failed  median s  max s"
    ]
    for point in dict.fromkeys(point for point, _ in POINTS):
        of_it = [kill for kill in done if kill.point == point]
        if not of_it:
            continue
        seconds = [kill.seconds for kill in of_it]
        victims = Counter(kill.victim for kill in of_it)
        rows.append(
            f"{point:<18}"
            + "".join(f"{victims[one]:>9}" for one in VICTIMS)
            + f"{sum(bool(kill.wrong) for kill in of_it):>9}"
            + f"{statistics.median(seconds):>10.1f}{max(seconds):>7.1f}"
        )
    return "\n".join(rows)


def kills(asked: Namespace) -> int:
    say(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="memit-chaos-") as folder:
        run = Run(asked, Path(folder))
        run.run()
    failed = [kill.number for kill in run.done if kill.wrong]
    say(table(run.done))
    say(f"answers: {dict(run.answers)}")
    say(f"{len(run.done)} kills, {len(failed)} failed {failed}, seed {asked.seed}")
    if asked.json:
        summary = {
            "seed": asked.seed,
            "kills": [kill.record for kill in run.done],
            "answers": run.answers,
        }
        Path(asked.json).write_text(json.dumps(summary, indent=1))
    return 1 if failed or len(run.done) < asked.kills else 0


def faults(asked: Namespace) -> int:
    """Each on a service of its own."""
    names = list(FAULTS) if asked.fault == ["all"] else asked.fault
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="memit-chaos-") as folder:
        model, settings = settings_in(Path(folder))
        oracle = Oracle(model)
        for number, name in enumerate(names):
            begun = time.monotonic()
            lane = Lane(Path(folder) / name, model, oracle, asked.seed, **settings)
            wrong = try_fault(lane, FAULTS[name], short=asked.short)
            seconds = round(time.monotonic() - begun, 1)
            found[name] = {"seconds": seconds, "wrong": wrong, "answers": dict(lane.load.counts)}
            left = timedelta(seconds=round(seconds * (len(names) - number - 1)))
            verdict = "; ".join(wrong) or "held"
            say(
                f"{number + 1}/{len(names)}, {left} left: {name} {found[name]['answers']} {verdict}"
            )
    if asked.json:
        Path(asked.json).write_text(json.dumps(found, indent=1))
    return 1 if any(one["wrong"] for one in found.values()) else 0


def main() -> int:
    """1 if anything that is promised did not hold."""
    parser = ArgumentParser("python -m tests.chaos")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill of the seed")
    parser.add_argument("--lanes", type=int, default=1, help="services side by side")
    parser.add_argument(
        "--real-times",
        action="store_true",
        help="wait for dead workers as long as the product does",
    )
    parser.add_argument("--json", help="file for a summary")
    parser.add_argument("--list", action="store_true", help="name the other faults")
    parser.add_argument("--fault", action="append", help="run this one instead of kills; or all")
    parser.add_argument("--short", action="store_true", help="faults last for less long")
    asked = parser.parse_args()
    if asked.list:
        for name, fault in FAULTS.items():
            say(f"{name:<24}{(fault.__doc__ or '').strip()}")
        return 0
    return faults(asked) if asked.fault else kills(asked)


if __name__ == "__main__":
    sys.exit(main())
