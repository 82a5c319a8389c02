"""What each version answers, computed once from its weights in the registry, beside the service."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from memit_core.loading import load_model
from memit_core.progress import silent
from memit_core.weights import decode_delta, served_weight
from registry import Registry
from worker.answers import EDITED, Answers, Question

CONTEXT = 512


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

    def _weights(self, registry: Registry, version: str) -> dict[str, torch.Tensor]:
        found = {}
        for one in registry.versions.get(version).weights:
            base = self._loaded.model.get_submodule(one.module).weight
            delta = decode_delta(registry.blobs.get(one.blob))
            found[one.module] = served_weight(base, delta, self._loaded.structure.transposed)
        return found
