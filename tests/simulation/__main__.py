"""`python -m tests.simulation --histories 10000 --first 0`: as many histories as one likes."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from argparse import ArgumentParser

from tests.simulation.history import History


def main() -> int:
    """Run them; 1 if one fails, whose seed is named."""
    parser = ArgumentParser("python -m tests.simulation")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun, failed = time.perf_counter(), []
    for seed in range(asked.first, asked.first + asked.histories):
        try:
            History(seed).run()
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            failed.append(seed)
            traceback.print_exc()
            sys.stderr.write(
                f"seed {seed}: python -m tests.simulation --first {seed} --histories 1\n"
            )
    seconds = time.perf_counter() - begun
    sys.stdout.write(
        f"{asked.histories} histories, {len(failed)} failed {failed[:10]}, "
        f"{asked.histories / seconds:.0f} a second\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
