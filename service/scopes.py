"""Which scope each route needs. A route that is not here needs `admin`."""

from __future__ import annotations

from contracts.keys import Scope

READ, GENERATE, EDIT, ADMIN = Scope.READ, Scope.GENERATE, Scope.EDIT, Scope.ADMIN

OPEN = frozenset(
    {"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""Paths that need no key: probes, and the description of the API, which is the same everywhere."""

SCOPES: dict[str, Scope | None] = {
    "POST /edits": EDIT,
    "GET /edits": READ,
    "GET /edits/{edit_id}": READ,
    "GET /edits/{edit_id}/events": READ,
    "GET /edits/{edit_id}/rebase": READ,
    "DELETE /edits/{edit_id}": EDIT,
    "POST /rebase": EDIT,
    "GET /facts": READ,
    "GET /facts/{fact_id}": READ,
    "DELETE /facts/{fact_id}": EDIT,
    "POST /generate": GENERATE,
    "GET /versions": READ,
    "GET /versions/{ref}": READ,
    "GET /versions/{ref}/ledger": READ,
    "GET /versions/{ref}/checkpoint": READ,
    "GET /versions/{a}/diff/{b}": READ,
    "GET /blobs/{digest}": READ,
    "GET /aliases": READ,
    "GET /aliases/{name}": READ,
    "GET /aliases/{name}/history": READ,
    "PUT /aliases/{name}": EDIT,
    "GET /v1/models": GENERATE,
    "GET /v1/models/{model}": GENERATE,
    "POST /v1/completions": GENERATE,
    "POST /v1/chat/completions": GENERATE,
    "POST /keys": ADMIN,
    "GET /keys": ADMIN,
    "DELETE /keys/{key_id}": ADMIN,
    "GET /audit": ADMIN,
    "POST /webhooks": ADMIN,
    "GET /webhooks": ADMIN,
    "DELETE /webhooks/{webhook_id}": ADMIN,
    "POST /webhooks/{webhook_id}/test": ADMIN,
    "GET /webhooks/{webhook_id}/deliveries": ADMIN,
    "GET /workers": READ,
    "GET /metrics": READ,
    "GET /healthz": None,
    "GET /readyz": None,
}
"""By method and path as the OpenAPI document has them; None: open to all."""


def needed(method: str, path: str) -> Scope | None:
    """The scope for a route, by its path with the names of its parameters."""
    return SCOPES.get(f"{method} {path}", ADMIN)
