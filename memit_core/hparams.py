"""Hyperparameters under their published names."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from memit_core.errors import MemitError

_TINY = 1e-12
_RANGES: dict[str, tuple[type, float]] = {
    "v_num_grad_steps": (int, 1),
    "v_lr": (float, _TINY),
    "v_beta1": (float, 0),
    "v_beta2": (float, 0),
    "v_weight_decay": (float, 0),
    "clamp_norm_factor": (float, _TINY),
    "kl_factor": (float, 0),
    "mom2_update_weight": (float, _TINY),
    "mom2_weight_per_subject": (float, 0),
    "mom2_update_weight_max": (float, _TINY),
    "mom2_n_tokens": (int, 2),
    "n_contexts": (int, 0),
    "context_length": (int, 1),
    "v_end_factor": (float, 0),
    "v_stop_after_lead": (int, 0),
    "v_max_grad_steps": (int, 1),
    "bare_share": (float, _TINY),
    "reweight_rounds": (int, 0),
    "reweight_factor": (float, 1),
}
"""What each number must be, and the least it may be."""
_OPTIONAL = {"v_stop_after_lead", "v_max_grad_steps", "bare_share", "mom2_update_weight_max"}


@dataclass(frozen=True)
class HParams:
    """Hyperparameters of MEMIT, named as in the official code."""

    layers: tuple[int, ...]
    """Edited layers, ascending; z is read at the last."""
    v_num_grad_steps: int = 25
    """Forward passes of the z optimisation; the last is not followed by an update."""
    v_lr: float = 0.5
    v_beta1: float = 0.9
    """Adam's decay of the mean gradient, below 1."""
    v_beta2: float = 0.999
    """Adam's decay of the mean squared gradient, below 1."""
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    v_end_factor: float = 0.0
    """Weight of the target's end: of -log of the probability that its last word does not go on.
    0: not asked, as in the paper."""
    v_stop_after_lead: int | None = None
    """Steps after which a fact is done once its target leads in every context (ENCORE, 2502.01636);
    None: the loss alone decides, as in the paper."""
    v_max_grad_steps: int | None = None
    """Passes for a subject whose loss is still high after v_num_grad_steps, at least as many; long
    targets and rare scripts take more of them. None: nobody gets more, as in the paper."""
    mom2_update_weight: float = 15_000.0
    """λ: how many average tokens the old memory weighs; the least, if it grows."""
    mom2_weight_per_subject: float = 0.0
    """λ is this times the number of subjects written, where that is more."""
    mom2_update_weight_max: float | None = None
    """λ grows no further than this; None: without end."""
    mom2_n_tokens: int = 40_000
    """Tokens that the covariance is taken from."""
    n_contexts: int = 5
    """Context templates sampled from the model, besides the bare prompt."""
    context_length: int = 10
    """Tokens of a sampled context, its opening included."""
    chat_context: bool = False
    """Whether the prompt as a user's turn of a chat, which the target answers, is one context more;
    of no effect where the tokenizer has no chat template."""
    question_wording: bool = False
    """Whether z reads the prompt as a question too, in every context; keys do not. Of no effect on
    prompts that are no plain English clause, or questions already."""
    bare_share: float | None = None
    """Weight of the bare prompt's key in a fact's own two columns, below 1; the other is the mean
    over the sampled contexts. None: one column, the mean of the two, as in the paper."""
    reweight_rounds: int = 0
    """Times that all facts are solved anew, those that a greedy answer misses with more weight."""
    reweight_factor: float = 3.0
    """By how much a round raises the weight of a fact that a greedy answer misses."""

    def __post_init__(self) -> None:
        layers = self.layers
        whole = all(type(layer) is int for layer in layers)
        if not (layers and whole and layers[0] >= 0 and list(layers) == sorted(set(layers))):
            raise MemitError(f"hparams: layers must be ascending and distinct, got {layers}")
        for name, (kind, least) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            allowed = int if kind is int else (int, float)
            fits = isinstance(value, allowed) and not isinstance(value, bool)
            if not fits or not math.isfinite(value) or value < least:
                raise MemitError(
                    f"hparams: {name} must be {kind.__name__} ≥ {least}, got {value!r}"
                )
        if self.most_grad_steps < self.v_num_grad_steps:
            raise MemitError(
                f"hparams: v_max_grad_steps must be at least v_num_grad_steps, "
                f"{self.v_num_grad_steps}, got {self.v_max_grad_steps!r}"
            )
        for name in ("chat_context", "question_wording"):
            if type(value := getattr(self, name)) is not bool:
                raise MemitError(f"hparams: {name} must be true or false, got {value!r}")
        for name in ("bare_share", "v_beta1", "v_beta2"):
            if (value := getattr(self, name)) is not None and value >= 1:
                raise MemitError(f"hparams: {name} must be below 1, got {value!r}")

    @property
    def most_grad_steps(self) -> int:
        """Passes that any subject may take."""
        return self.v_max_grad_steps or self.v_num_grad_steps

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back. What is None is left out."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {**given, "layers": list(self.layers)}

    def update_weight(self, subjects: int) -> float:
        """λ of a version that holds so many subjects."""
        grown = self.mom2_weight_per_subject * subjects
        if self.mom2_update_weight_max is not None:
            grown = min(grown, self.mom2_update_weight_max)
        return max(self.mom2_update_weight, grown)

    @property
    def z_digest(self) -> str:
        """SHA-256 in hex of what z depends on: not λ, not the layers below the last."""
        chosen = {
            name: value
            for name, value in self.as_dict().items()
            if name.startswith("v_") or name in ("clamp_norm_factor", "kl_factor")
        } | {"layer": self.layers[-1]}
        if self.question_wording:
            chosen["question_wording"] = True
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def from_dict(values: dict[str, Any]) -> HParams:
    """Hyperparameters from JSON.

    Raises:
        MemitError: a name is unknown or a value is out of range.
    """
    known = {f.name for f in fields(HParams)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise MemitError(f"hparams: unknown {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if "layers" not in values:
        raise MemitError("hparams: layers is missing")
    layers = values["layers"]
    if not isinstance(layers, (list, tuple)):
        raise MemitError(f"hparams: layers must be a list of block numbers, got {layers!r}")
    return HParams(**{**values, "layers": tuple(layers)})


def from_file(path: Path) -> HParams:
    """Hyperparameters from a JSON file, bare or in the form of a preset.

    Raises:
        MemitError: the file is no JSON object, or `from_dict` refuses it.
    """
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise MemitError(f"hparams: {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MemitError(f"hparams: {path} must hold a JSON object")
    return from_dict(values.get("hparams", values))
