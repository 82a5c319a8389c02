"""Calibrate a model: find its hyperparameters, and say what they can do.

from memit_core import load_model
from memit_core.calibrate.calibration import calibrate

found = calibrate(load_model("./my-model"), minutes=15)
found.hparams, found.verdict
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memit_core.cache import Cache, MemoryCache
from memit_core.calibrate.causal_trace import Trace
from memit_core.calibrate.notebook import Notebook
from memit_core.calibrate.records import packaged_records, users_records
from memit_core.calibrate.search import FEW, LOWER_PART, SOME, Found, Search
from memit_core.calibrate.trial import Bench
from memit_core.calibrate.verdict import best_of_fewer, verdict
from memit_core.corpus import default_corpus
from memit_core.facts import Fact
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.preset import CALIBRATION_MINUTES, TOKENS_PER_COLUMN
from memit_core.progress import ProgressCallback, silent
from memit_core.software import software

MATCHED = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Calibration:
    """What was found, and the way there."""

    hparams: HParams
    verdict: list[str]
    trace: Trace
    preset: dict[str, Any]
    """JSON-ready, as the files in `memit_core/presets`."""


def calibrate(
    loaded: LoadedModel,
    facts: Sequence[Fact] = (),
    *,
    minutes: float = CALIBRATION_MINUTES,
    corpus: str | None = None,
    cache: Cache | None = None,
    scratch: Path | None = None,
    progress: ProgressCallback = silent,
) -> Calibration:
    """Search within about `minutes`.

    Args:
        facts: what the result is judged by, and, if they are enough, found by; by default a
            packaged set of well-known things.
        corpus: text for the covariance and for the perplexity; by default the packaged sample.
        cache: of this base; one that outlives the process lets a calibration that was broken off
            go on.
        scratch: folder for a covariance that is not finished.

    Raises:
        MemitError: the model cannot be edited; a fact cannot be written; the corpus is too short.
        Cancelled: raised by `progress`.
    """
    structure = loaded.structure
    top = max(1, round(len(structure.blocks) * LOWER_PART)) + 1
    bench = Bench(
        loaded,
        default_corpus() if corpus is None else corpus,
        MemoryCache() if cache is None else cache,
        range(min(top, len(structure.blocks))),
        TOKENS_PER_COLUMN * structure.intermediate,
        scratch=scratch,
    )
    packaged = packaged_records()
    few, many = packaged[: FEW + SOME], packaged[FEW + SOME :]
    if facts:
        own = users_records(loaded.runnable(), facts)
        enough = len(own) >= 2 * (FEW + SOME)
        few, many = (own[: FEW + SOME], own[FEW + SOME :]) if enough else (few, own)
    notebook = Notebook(bench.cache, 60 * minutes)
    search = Search(bench, notebook, few, many, progress)
    found = search.run()
    final = found.best.outcome
    words = verdict(found.before, final, best_of_fewer([t.outcome for t in found.tried], final))
    kind = "given" if facts else "packaged"
    preset = _preset(found, words, loaded, notebook.spent, kind)
    return Calibration(found.best.hparams, words, found.trace, preset)


def _preset(
    found: Found, words: list[str], loaded: LoadedModel, seconds: float, facts: str
) -> dict[str, Any]:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    config = loaded.model.config
    return {
        "source": f"memit calibrate, {today}, on {found.best.outcome.facts} {facts} facts",
        "match": {name: getattr(config, name) for name in MATCHED if hasattr(config, name)},
        "hparams": found.best.hparams.as_dict(),
        "calibration": {
            "verdict": words,
            "model": {"name": loaded.name, "digest": loaded.digest, "dtype": loaded.dtype_name},
            "device": str(loaded.device),
            "seconds": round(seconds),
            "software": software(),
            "unedited": _clear(asdict(found.before)),
            "table": [
                {
                    "stage": one.stage,
                    **_clear(asdict(one.settings)),
                    "mom2_update_weight": one.hparams.mom2_update_weight,
                    "v_lr": one.hparams.v_lr,
                    **_clear({**asdict(one.outcome), "score": one.outcome.score}),
                }
                for one in found.tried
            ],
            "trace": asdict(found.trace),
        },
    }


def _clear(values: dict[str, Any]) -> dict[str, Any]:
    """Four digits; what is not finite is no JSON."""
    return {
        name: (float(f"{v:.4g}") if math.isfinite(v) else None) if isinstance(v, float) else v
        for name, v in values.items()
    }
