"""`python -m worker`: settings from the environment, see `contracts.settings`."""

import sys

from worker.main import main

if __name__ == "__main__":
    sys.exit(main())
