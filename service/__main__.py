"""`python -m service`: serve the API with uvicorn, configured by the environment."""

from __future__ import annotations

import logging
import sys

import uvicorn

from contracts.settings import Settings
from service.app import create_app

SHUTDOWN_SECONDS = 10
PROBES = ("/healthz", "/readyz", "/metrics")


def not_a_probe(record: logging.LogRecord) -> bool:
    """Whether an access log record is of a request that somebody made, not a machine's probe."""
    return not (isinstance(record.args, tuple) and record.args[2] in PROBES)


def main() -> None:
    """Serve until SIGTERM or SIGINT; open streams then have `SHUTDOWN_SECONDS` to end."""
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn.access").addFilter(not_a_probe)
    try:
        app = create_app(settings)
    except ValueError as error:
        sys.exit(str(error))
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
