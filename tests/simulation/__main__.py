"""`python -m tests.simulation --histories 10000 --first 0`: as many histories as one likes."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.history import History

CHUNK = 200
"""Histories that a process runs before it reports."""


def main() -> int:
    """Run them on all cores; 1 if one fails, whose seed is named."""
    parser = ArgumentParser("python -m tests.simulation")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    begun, done, failed = time.perf_counter(), 0, dict[int, str]()
    end = asked.first + asked.histories
    with ProcessPoolExecutor(asked.processes) as pool:
        chunks = [
            pool.submit(run, range(first, min(first + CHUNK, end)))
            for first in range(asked.first, end, CHUNK)
        ]
        for chunk in as_completed(chunks):
            ran, found = chunk.result()
            done += ran
            failed |= found
            for seed, trace in found.items():
                again = f"python -m tests.simulation --first {seed} --histories 1"
                sys.stderr.write(f"{trace}seed {seed}: {again}\n")
            rate = done / (time.perf_counter() - begun)
            left = (asked.histories - done) / rate
            sys.stderr.write(
                f"\r{done} histories, {len(failed)} failed, {rate:.0f} a second, {left:.0f} s left "
            )
    seeds = sorted(failed)[:10]
    sys.stdout.write(
        f"\n{done} histories, {len(failed)} failed {seeds}, {rate:.0f} a second "
        f"on {asked.processes} processes\n"
    )
    return 1 if failed else 0


def run(seeds: range) -> tuple[int, dict[int, str]]:
    """Run these; how many that were, and the traceback of each seed that failed."""
    logging.disable(logging.CRITICAL)
    gc.disable()  # a fifth faster; a chunk leaves little behind
    failed = {}
    for seed in seeds:
        try:
            History(seed).run()
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            failed[seed] = traceback.format_exc()
    gc.collect()
    return len(seeds), failed


if __name__ == "__main__":
    sys.exit(main())
