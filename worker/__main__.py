"""`python -m worker`: settings from the environment, see `contracts.settings`."""

import os
import sys


def start() -> int:
    # An edit and the engine compute side by side: an idle OpenMP thread may wait for its next
    # piece of work for microseconds, which a small edit gains half its time from, not for good.
    # Read when torch loads its OpenMP runtime, so it is set before anything imports torch.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from worker.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
