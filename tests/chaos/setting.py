"""The tiny model and the settings that every service of these tests is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.stack import CORPUS
from tests.tiny_models import save_tiny

HPARAMS = {"layers": [0, 1, 2], "v_num_grad_steps": 8, "v_lr": 0.1, "mom2_update_weight": 10}


def settings_in(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model in the folder, and settings for `tests.stack.Stack`.

    z is optimised in float32: a trial of a busy machine decides one way now and another way later.
    """
    model = save_tiny("llama", folder / "tiny-llama")
    corpus, hparams = folder / "corpus.txt", folder / "hparams.json"
    corpus.write_text(CORPUS)
    hparams.write_text(json.dumps(HPARAMS))
    return model, {"corpus": corpus, "hparams": hparams, "z_dtype": "float32"}
