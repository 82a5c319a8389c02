"""`python -m worker`: settings from the environment, see `contracts.settings`."""

import os
import sys


def start() -> int:
    # An edit and the engine compute side by side: idle OpenMP threads must sleep, not spin.
    # Read when torch loads its OpenMP runtime, so it is set before anything imports torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from worker.main import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
