"""`python -m service`: serve the API with uvicorn, configured by the environment."""

from __future__ import annotations

import gc
import logging
import resource
import sys

import uvicorn

from contracts.settings import Settings
from registry.errors import RegistryError
from service.app import create_app
from service.listening import prepare_keys
from service.server import server_config

log = logging.getLogger(__name__)

CANNOT_START = 2
PROBES = ("/healthz", "/readyz", "/metrics")


def not_a_probe(record: logging.LogRecord) -> bool:
    """Whether an access log record is of a request that somebody made, not a machine's probe."""
    return not (isinstance(record.args, tuple) and record.args[2] in PROBES)


def allow_open_files() -> None:
    """As many as the system lets: a connection may need two, its own and one to Redis."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn.access").addFilter(not_a_probe)
    try:
        app = create_app(settings)
        prepare_keys(settings)
    except (ValueError, RegistryError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(CANNOT_START)
    allow_open_files()
    # A body of millions of values is read in a third of the time: it makes no cycles to look for.
    gc.set_threshold(50_000, 20, 100)
    uvicorn.Server(server_config(app, settings)).run()


if __name__ == "__main__":
    main()
