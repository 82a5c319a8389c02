"""uvicorn, set up for this service."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI

from contracts.limits import MAX_HEADER_BYTES
from contracts.settings import Settings
from service.connection import protocol

IDLE_SECONDS = 15
"""How long a connection stays open after an answer without another request."""
SHUTDOWN_SECONDS = 10


def server_config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    """For a server of `app`; SIGTERM gives open streams `SHUTDOWN_SECONDS` to end.

    Args:
        more: overrides, such as `port`.
    """
    return uvicorn.Config(
        app,
        **{
            "host": settings.host,
            "port": settings.port,
            "log_config": None,
            "access_log": False,  # service/access.py writes it
            "server_header": False,
            "http": protocol(settings.body_timeout, settings.max_connections),
            "ws": "none",
            "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
            "timeout_keep_alive": IDLE_SECONDS,
            "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
            **more,
        },
    )
