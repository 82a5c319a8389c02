"""ROME (Meng et al., NeurIPS 2022): one layer, one fact after another, each exactly.

k is the key at the subject's last token, the mean over the contexts; v what the layer's projection
shall give for it, so that the model says the target: W k and the δ that is optimised as for MEMIT;
C the mean of k kᵀ over text. Then

    ΔW = (v - W k) (C⁻¹ k)ᵀ / (kᵀ C⁻¹ k)

W is that which holds the facts before, so the result depends on their order. k is the same mean
wherever it stands, as in r-ROME (Gupta et al., 2403.07175): with the bare key in some places, as
the official code has it, single facts can ruin a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch

from memit_core.carry import CARRY_REVISION, needed
from memit_core.check_facts import check_written
from memit_core.compute_ks import KeyWalk, LayerInputs
from memit_core.edit import Editor
from memit_core.errors import NonFinite
from memit_core.facts import Fact, Group
from memit_core.hparams import HParams
from memit_core.insert import edited
from memit_core.joining import compose
from memit_core.methods.current_targets import current_targets
from memit_core.methods.options import chosen
from memit_core.model import Model
from memit_core.progress import ProgressCallback
from memit_core.weights import Delta, smallest

DEFAULTS: dict[str, Any] = {
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4.0,
    "kl_factor": 0.0625,
}
"""Of GPT-2 XL and GPT-J (kmeng01/rome); clamp and decay are relative to ‖W k‖."""
DEPTH = 1 / 6
"""Of the edited layer: between GPT-J's and Llama's (5 of 28 and of 32) for other models."""


class Rome:
    """Facts in one matrix, each written where the ones before have left it."""

    name = "rome"
    revision = 1
    ordered = True

    def __init__(self, editor: Editor) -> None:
        self._base_editor = editor
        self._editors: dict[HParams, Editor] = {}

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        """Templates, and the layer's covariance with its factor; digests of the first two."""
        editor = self.editor(self.options([], {}))
        editor.prepare(progress)
        editor.preparation.factorise(progress)
        return {
            "templates": editor.preparation.contexts_digest,
            "covariance": editor.preparation.covariance_digest,
        }

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The layer and the hyperparameters of v; the same for any number of facts."""
        loaded = self._base_editor.loaded
        layer = round(DEPTH * len(loaded.structure.blocks))
        return chosen(self.name, loaded, {"layer": layer, **DEFAULTS}, given)

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:  # noqa: ARG002
        """None: whether a v is finite shows where the facts before it are written.

        Raises:
            InvalidFact: a fact cannot be tokenised as needed.
        """
        for fact in facts:
            check_written(self._base_editor.loaded, fact, self._base_editor.max_tokens)
        return ()

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """The facts in the order given; see `Method.solve`."""
        return self.writer(options).write(facts, progress) if facts else {}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """Of the facts in their order."""
        said = self.beginning(options)
        for fact in facts:
            said = followed(said, fact)
        return said

    def beginning(self, options: Mapping[str, Any]) -> str:
        """The digest of no facts: of all that the others are written with."""
        preparation = self.editor(options).preparation
        carry = self._base_editor.structure.carry
        parts = [
            self.name,
            self.revision,
            dict(options),
            preparation.contexts_digest,
            preparation.covariance_digest,
            None if carry.plain else [CARRY_REVISION, carry.scale, carry.norms],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def writer(self, options: Mapping[str, Any]) -> _Writer:
        """See `Stacking.writer`."""
        return _Writer(self.editor(options), options["layer"], self.beginning(options))

    def editor(self, options: Mapping[str, Any]) -> Editor:
        """An editor of the one layer."""
        shared = self._base_editor.hparams
        hparams = HParams(
            layers=(options["layer"],),
            **{name: options[name] for name in DEFAULTS},
            mom2_n_tokens=shared.mom2_n_tokens,
            n_contexts=shared.n_contexts,
            context_length=shared.context_length,
        )
        if hparams not in self._editors:
            self._editors[hparams] = self._base_editor.with_hparams(hparams)
        return self._editors[hparams]


def followed(before: str, fact: Fact) -> str:
    """The digest of a series of facts that one more is added to."""
    parts = [before, *fact.content]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


class _Writer:
    """The matrix so far; every fact's part of it is kept under the facts up to it."""

    def __init__(self, editor: Editor, layer: int, beginning: str) -> None:
        self._editor, self._layer, self._said = editor, layer, beginning
        self._path = editor.structure.projections[layer]
        self._left: list[torch.Tensor] = []
        self._right: list[torch.Tensor] = []

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        for fact in facts:
            check_written(self._editor.loaded, fact, self._editor.max_tokens)
        self._editor.prepare(progress)
        for done, fact in enumerate(facts):
            progress("insert", done, len(facts))
            self._said = followed(self._said, fact)
            left, right = self._part(fact, _at(progress, done, len(facts)))
            self._left.append(left)
            self._right.append(right)
        progress("insert", len(facts), len(facts))
        return self._solved()

    def _solved(self) -> dict[str, Delta]:
        if not self._left:
            return {}
        return {self._path: smallest(torch.cat(self._left, dim=1), torch.cat(self._right, dim=1))}

    def _part(self, fact: Fact, progress: ProgressCallback) -> tuple[torch.Tensor, torch.Tensor]:
        """Both factors of a fact's change, [d, 1] and [m, 1] float32."""
        cache, name = self._editor.cache, f"rome/{self._said}"
        data = cache.get(name)
        if data is None:
            model = edited(self._editor.loaded, self._solved())
            left, right = self._computed(model, fact, progress)
            data = safetensors.torch.save({"left": left, "right": right})
            data = cache.put_once(name, data)
        tensors = safetensors.torch.load(data)
        return tensors["left"], tensors["right"]

    def _computed(
        self, model: Model, fact: Fact, progress: ProgressCallback
    ) -> tuple[torch.Tensor, torch.Tensor]:
        editor, layer = self._editor, self._layer
        prepared = editor.prepare(progress)
        group = Group(compose(fact.subject).strip(), (fact,))
        inputs = KeyWalk(model, [group], prepared.contexts, layer).at(layer)
        hparams = relative_to_value(editor.hparams, model, inputs, self._value(model, inputs))
        z = current_targets(editor, model, hparams, [group], progress)
        carry = model.structure.carry
        norm = carry.norm(editor.loaded.model, layer, torch.float64)
        normed = None if inputs.normed is None else inputs.normed.T
        norm = None if norm is None else norm.cpu()
        more = needed(carry, norm, normed, (z - inputs.states).T).T
        n = len(prepared.contexts)
        key = (inputs.bare + (n - 1) * inputs.sampled) / n
        # With one key, X of any λ has the direction of C⁻¹ k.
        solved = prepared.solvers[layer].solve(key, 1.0)
        left = more.float()
        right = (solved / (key * solved).sum()).float()
        if not (left.isfinite().all() and right.isfinite().all()):
            raise NonFinite("the weight update", [fact.subject])
        return left, right

    def _value(self, model: Model, inputs: LayerInputs) -> torch.Tensor:
        """What the projection gives for the bare prompt's key, [d] float64."""
        module = model.view.get_submodule(self._path)
        with torch.no_grad():
            key = inputs.bare.T.to(module.weight.device, module.weight.dtype)
            value: torch.Tensor = module(key)[0].double().cpu()
        return value


def relative_to_value(
    hparams: HParams, model: Model, inputs: LayerInputs, value: torch.Tensor
) -> HParams:
    """Clamp and decay of one fact's v as ROME has them, relative to ‖W k‖ instead of ‖h‖.

    Before a norm, where the size of W k says nothing, they are relative to what goes into it.

    Args:
        value: what the projection gives now for the bare prompt, [d].
    """
    if inputs.normed is not None:
        return hparams
    state, size = float(inputs.states.norm()), float(value.norm())
    reach = state / model.structure.carry.scale
    return replace(
        hparams,
        clamp_norm_factor=hparams.clamp_norm_factor * size / reach,
        v_weight_decay=hparams.v_weight_decay * reach * state / size**2,
    )


def _at(progress: ProgressCallback, at: int, of: int) -> ProgressCallback:
    """The optimisation of a fact's v reports how many facts are written."""

    def report(stage: str, done: int, total: int, *, loss: float | None = None) -> None:  # noqa: ARG001
        progress("insert", at, of, loss=loss)

    return report
