"""The other side of a rebase: a service of another model, and what is posted from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import httpx2

from tests.unit.service.worker_peer import Editor

OTHER_BASE = "cd" * 32
OTHER_HPARAMS = {"layers": [1, 2], "v_lr": 0.5, "v_stop_after_lead": 3}


class Source(NamedTuple):
    """A service of another model, and its worker."""

    client: httpx2.Client
    editor: Editor

    def edit(self, *facts: dict[str, Any], **how: Any) -> list[str]:
        """Write facts at once; their ids."""
        made = self.client.post("/edits", json={"facts": list(facts)}).json()
        self.editor.run(made["id"], **how)
        return [fact["id"] for fact in made["facts"]]

    def ledger(self, ref: str = "active") -> dict[str, Any]:
        answer = self.client.get(f"/versions/{ref}/ledger")
        assert answer.status_code == 200, answer.text
        ledger: dict[str, Any] = answer.json()
        return ledger


def rebase(
    client: httpx2.Client, ledger: Any, headers: dict[str, str] | None = None, **options: Any
) -> httpx2.Response:
    return client.post("/rebase", json={"ledger": ledger, **options}, headers=headers)
