"""Write the OpenAPI document as it is kept for review: `python -m scripts.openapi`."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from contracts.settings import Settings
from service.app import create_app

GOLDEN = Path(__file__).parents[1] / "tests" / "unit" / "service" / "openapi.json"


def document() -> str:
    """What `GET /openapi.json` answers, sorted and indented, without the release's number."""
    with TemporaryDirectory() as home:
        app = create_app(Settings(home=Path(home), redis_url="redis://nowhere"))
    described = app.openapi()
    described["info"]["version"] = "any"
    return json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(document(), encoding="utf-8")
