"""`python -m service`: serve the API with uvicorn, configured by the environment."""

from __future__ import annotations

import gc
import logging
import resource
import sys

import uvicorn

from contracts import logs
from contracts.settings import Settings
from registry.errors import RegistryError
from service.app import create_app
from service.listening import prepare_keys
from service.server import server_config

log = logging.getLogger(__name__)

CANNOT_START = 2


def allow_open_files() -> None:
    """As many as the system lets: a connection may need two, its own and one to Redis."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_little_by_little() -> None:
    """Look for garbage often and in few objects: while one looks, every client waits."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 10, 100)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    try:
        app = create_app(settings)
        prepare_keys(settings)
    except (ValueError, RegistryError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(CANNOT_START)
    allow_open_files()
    collect_little_by_little()
    uvicorn.Server(server_config(app, settings)).run()


if __name__ == "__main__":
    main()
