"""What the benchmarks have in common: records, editors that share a base, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from memit_core.cache import Cache, MemoryCache
from memit_core.edit import Editor
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import Record, spread
from memit_core.eval.summary import summarise
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.model import Model
from memit_core.views import cast_view

FIGURES = (
    "efficacy",
    "paraphrase",
    "neighborhood",
    "score",
    "generation_success",
    "ends_right",
)
ASKED = {
    "efficacy": "ES",
    "paraphrase": "PS",
    "neighborhood": "NS",
    "generation_success": "greedy",
    "paraphrase_generation_success": "other words",
    "chat": "chat",
    "chat_question": "chat, question",
    "chat_other_words": "chat, other words",
}
"""What is asked in chats and other words too, with its title in tables."""
COLUMNS = ("ES", "PS", "NS", "Score", "greedy", "ends right")
"""The same under the paper's names, for tables."""


GROUPS = 10
"""Groups of a small size, at most."""


class SharedCache(MemoryCache):
    """Templates and covariance from another cache; z of its own."""

    def __init__(self, shared: Cache) -> None:
        super().__init__()
        self._shared = shared

    def get(self, name: str) -> bytes | None:
        return super().get(name) if name.startswith("z/") else self._shared.get(name)

    def put_once(self, name: str, data: bytes) -> bytes:
        if name.startswith("z/"):
            return super().put_once(name, data)
        return self._shared.put_once(name, data)


class Bench:
    """One base model, its templates and covariance made once."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._cache = MemoryCache()

    def editor(self, hparams: HParams | None = None, **options: Any) -> Editor:
        """An editor that optimises its own z."""
        return Editor(self.loaded, hparams, cache=SharedCache(self._cache), **options)


def figures(model: Model, records: Sequence[Record]) -> dict[str, float]:
    """`FIGURES` of the records on the weights of `model`, in percent."""
    measures = COUNTERFACT.score(model, records)
    values = summarise(measures).values
    return {name: round(100 * (values[name] or 0.0), 2) for name in FIGURES}


def groups_of(records: Sequence[Record], asked: Sequence[Record], size: int) -> list[list[Record]]:
    """The records that are asked in groups of this size, or one group with them all in it."""
    if size < len(asked):
        count = min(GROUPS, len(asked) // size)
        return [list(asked[i * size : (i + 1) * size]) for i in range(count)]
    known = {record.index for record in asked}
    others = [record for record in records if record.index not in known]
    chosen = known | {record.index for record in spread(others, size - len(asked))}
    return [[record for record in records if record.index in chosen]]


def percent(row: Mapping[str, Any], name: str) -> str:
    """A figure of a row with the half-width of its 95% interval, where it has these."""
    value, half = row[name], row["ci95"][name]
    if value is None:
        return ""
    return f"{value:.1f}" if half is None else f"{value:.1f} ± {half:.1f}"


def cast(model: Model, dtype: torch.dtype) -> Model:
    """The same weights in another precision."""
    return model.with_view(cast_view(model.view, dtype))
