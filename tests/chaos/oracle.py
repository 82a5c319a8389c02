"""What each version answers, computed once from its weights in the registry, beside the service."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from memit_core.loading import load_model
from memit_core.progress import silent
from memit_core.tokens import encode_text
from memit_core.views import cast_view, set_weight
from memit_core.weights import decode_delta, served_weight
from registry import Registry
from worker.answers import EDITED, Answers, Question
from worker.engine.text import Detokenizer

CONTEXT = 512
ROUNDING = 1e-5
"""Of the largest logit: tokens that differ by less are equally the best in float32."""
MOST_TEXTS = 16
"""Followed at once, however many tokens tie."""


class Oracle:
    """Greedy answers of versions of one model; from any thread."""

    def __init__(self, model: Path) -> None:
        self._loaded = load_model(str(model), device="cpu", dtype="float32")
        self._answers = Answers(self._loaded, CONTEXT)
        self._known: dict[tuple[str, str, int], str] = {}
        self._lock = threading.Lock()

    def text(self, registry: Registry, version: str, prompt: str, tokens: int) -> str:
        """What the version says after the prompt, in so many tokens at most."""
        key = (version, prompt, tokens)
        with self._lock, torch.no_grad():
            if key not in self._known:
                weights = self._weights(registry, version)
                question = Question(prompt, EDITED, tokens)
                (answer,) = self._answers.ask(weights, [question], silent)
                assert answer.error is None, answer.error
                self._known[key] = answer.text
            return self._known[key]

    def texts(self, registry: Registry, version: str, prompt: str, tokens: int) -> set[str]:
        """All that it may say (`greedy_texts`): rows decoded together round otherwise than one."""
        view = cast_view(self._loaded.model, torch.float64)
        for path, weight in self._weights(registry, version).items():
            set_weight(view, path, weight.double())
        return greedy_texts(view, self._loaded.tokenizer, prompt, tokens)

    def _weights(self, registry: Registry, version: str) -> dict[str, torch.Tensor]:
        found = {}
        for one in registry.versions.get(version).weights:
            base = self._loaded.model.get_submodule(one.module).weight
            delta = decode_delta(registry.blobs.get(one.blob))
            found[one.module] = served_weight(base, delta, self._loaded.structure.transposed)
        return found


@torch.no_grad()
def greedy_texts(model: Any, tokenizer: Any, prompt: str, tokens: int) -> set[str]:
    """Every greedy answer of a float64 model, either way where two tokens tie up to `ROUNDING`."""
    asked, _ = encode_text(tokenizer, prompt)
    open_, ended = [asked], []
    for _ in range(tokens):
        longer = [[*row, token] for row in open_ for token in _best(model, row)]
        ends = [row for row in longer if row[-1] == tokenizer.eos_token_id]
        ended += [row[:-1] for row in ends]
        open_ = [row for row in longer if row not in ends][:MOST_TEXTS]
    found = set()
    for row in [*open_, *ended]:
        shown = Detokenizer(tokenizer, asked)
        found.add("".join([*map(shown.push, row[len(asked) :]), shown.end()]))
    return found


def _best(model: Any, row: list[int]) -> list[int]:
    """Tokens that a greedy answer may go on with."""
    logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
    near = logits >= logits.max() - ROUNDING * logits.abs().max()
    return [int(token) for token in near.nonzero()[:, 0]]
