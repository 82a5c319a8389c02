"""Pages of other origins may ask the API from a browser only where `MEMIT_CORS_ORIGINS` says so."""

from __future__ import annotations

import re

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

EXPOSED = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Memit-Version",
    "X-Request-ID",
    "retry-after-ms",
    "x-should-retry",
)
"""Headers of answers that clients read, beside those that every page may."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
PREFLIGHT_SECONDS = 600
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


def origins(setting: str) -> list[str]:
    """The origins of a list by commas.

    Raises:
        ValueError: one is none, as browsers send it.
    """
    found = [one.strip() for one in setting.split(",") if one.strip()]
    for one in found:
        if one != "*" and not _ORIGIN.fullmatch(one):
            raise ValueError(
                f"MEMIT_CORS_ORIGINS: {one!r} is no origin; one is as browsers send it, such as "
                "https://example.org or http://localhost:3000, in small letters and without a path"
            )
    return found


def install(app: FastAPI, setting: str) -> None:
    """Let these origins in, if there are any; their preflights are answered here, without a key.

    Raises:
        ValueError: as `origins` says.
    """
    allowed = origins(setting)
    if allowed:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed,
            allow_methods=METHODS,
            # Whatever a page asks for: OpenAI's client has a dozen of its own. Cookies are never
            # taken, and a key is sent by the page itself or not at all.
            allow_headers=["*"],
            allow_credentials=False,
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_SECONDS,
        )
