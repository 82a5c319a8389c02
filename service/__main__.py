"""`python -m service`: serve the API with uvicorn, configured by the environment."""

from __future__ import annotations

import logging
import sys

import uvicorn

from contracts import logs
from contracts.settings import Settings
from registry.errors import RegistryError
from service.app import create_app
from service.listening import prepare_keys

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10
CANNOT_START = 2


def main() -> None:
    """Serve until SIGTERM or SIGINT; open streams then have `SHUTDOWN_SECONDS` to end."""
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    try:
        app = create_app(settings)
        prepare_keys(settings)
    except (ValueError, RegistryError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(CANNOT_START)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # service/access.py writes it
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
