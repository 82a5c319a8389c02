"""The whole method: from a base model and a set of facts to the change of each edited matrix.

Weights are a pure function of the base and the facts: z is always optimised on the base, and every
solve starts from the base. The editor never changes the model that it is given.

    from memit_core import Editor, Fact, group_facts, load_model

    editor = Editor(load_model())
    deltas = editor.solve(group_facts([Fact("The Eiffel Tower", "{} is in the city of", "Rome")]))
    edited = editor.apply(deltas)          # a model to call generate() on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from memit_core.cache import Cache, MemoryCache
from memit_core.carry import CARRY_REVISION
from memit_core.check_facts import check_written
from memit_core.compute_z import compute_z
from memit_core.corpus import default_corpus
from memit_core.errors import NonFinite
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.insert import Insertion, edited
from memit_core.loading import LoadedModel
from memit_core.model import Model
from memit_core.prepare import Preparation, Prepared
from memit_core.preset import advice, for_model
from memit_core.progress import ProgressCallback, silent
from memit_core.revision import METHOD_REVISION, Z_REVISION
from memit_core.running_sums import SAVE_SECONDS
from memit_core.weights import Delta, Solved
from memit_core.z_optimisation import Target


class Editor:
    """MEMIT on one base model.

    Args:
        loaded: the pristine base; it stays untouched.
        hparams: hyperparameters; by default the preset that fits the model, else a guess.
        corpus: text for the covariance; by default the packaged sample.
        cache: where templates, covariance and z of this base are kept.
        max_tokens: longest prompt and target of a fact together.
        z_dtype: precision of the blocks above the last edited layer while z is optimised:
            "float32", "bfloat16", or "auto", which is bfloat16 where the device gains from it.
        scratch: folder for a covariance that is not finished, so that it can go on after a stop.
        save_seconds: seconds between two saves to `scratch`, at least.
        network: file of a trained network, for a method that needs one.

    Raises:
        UnsupportedModel: the model's structure was not found.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        hparams: HParams | None = None,
        *,
        corpus: str | None = None,
        cache: Cache | None = None,
        max_tokens: int | None = None,
        z_dtype: str = "auto",
        scratch: Path | None = None,
        save_seconds: float = SAVE_SECONDS,
        network: Path | None = None,
    ) -> None:
        self.loaded = loaded
        self.network = network
        self.structure = loaded.structure
        self.hparams = hparams or for_model(loaded.model.config, loaded.structure)
        depth = len(self.structure.blocks)
        if self.hparams.layers[-1] >= depth:
            raise ValueError(f"layers {self.hparams.layers}: the model has {depth} blocks")
        self.corpus = default_corpus() if corpus is None else corpus
        self.cache: Cache = MemoryCache() if cache is None else cache
        self.max_tokens = max_tokens
        self._preparing: dict[str, Any] = {
            "z_dtype": z_dtype,
            "scratch": scratch,
            "save_seconds": save_seconds,
        }
        self.preparation = Preparation(
            loaded, self.hparams, self.corpus, self.cache, **self._preparing
        )

    def with_hparams(self, hparams: HParams) -> Editor:
        """An editor of the same base with other hyperparameters, which shares what serves both."""
        other = Editor(
            self.loaded,
            hparams,
            corpus=self.corpus,
            cache=self.cache,
            max_tokens=self.max_tokens,
            **self._preparing,
        )
        other.preparation.reuse(self.preparation)
        return other

    @cached_property
    def advice(self) -> str | None:
        """See `memit_core.preset.advice`; asked at every heartbeat."""
        loaded = self.loaded
        return advice(loaded.name, self.hparams, loaded.model.config, self.structure)

    def prepare(self, progress: ProgressCallback = silent) -> Prepared:
        """What every edit needs; see `Preparation.everything`."""
        return self.preparation.everything(progress)

    # models to run

    @property
    def base(self) -> Model:
        """The unedited model, each time in a view of its own."""
        return self.loaded.runnable()

    def model_with(self, solved: Solved) -> Model:
        """The base with these changes: what is served, with all that is needed to run it."""
        return edited(self.loaded, solved)

    def apply(self, solved: Solved) -> Any:
        """The base with these changes, as a model to call `generate()` on."""
        return self.model_with(solved).view

    # z

    def z_name(self, group: Group) -> str:
        """Where a group's z is kept: by what it depends on besides the base.

        Not the precision of the device: what is solved again must find the z it was solved from,
        also where a trial decides otherwise now.
        """
        contexts = self.preparation.contexts_digest
        parts = [Z_REVISION, self.hparams.z_digest, contexts, group.digest, *self._carried]
        return f"z/{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"

    @property
    def _carried(self) -> list[Any]:
        """What digests name where a projection's output does not reach the stream as it is."""
        carry = self.structure.carry
        return [] if carry.plain else [CARRY_REVISION, carry.scale, carry.norms]

    def targets(self, groups: Sequence[Group], progress: ProgressCallback = silent) -> list[Target]:
        """z of every group: kept ones are read back, the others optimised together.

        A target that is not finite is returned but never kept.

        Raises:
            InvalidFact: a fact cannot be written into this model; see `check_written`.
            Cancelled: raised by `progress`.
        """
        found = [self._kept(group) for group in groups]
        missing = [g for g, target in enumerate(found) if target is None]
        for g in missing:
            for fact in groups[g].facts:
                check_written(self.loaded, fact, self.max_tokens)
        if missing:
            fresh = compute_z(
                self.preparation.decoders(),
                self.hparams,
                self.preparation.contexts(),
                [groups[g] for g in missing],
                progress,
                chat=self.preparation.chat,
                max_tokens=self.max_tokens,
                word_ends=self.preparation.word_ends(),
            )
            # Kept batch by batch: a stage that is broken off goes on from there.
            for i, target in fresh:
                g = missing[i]
                found[g] = self._keep(groups[g], target) if target.finite else target
        return [target for target in found if target is not None]

    def _kept(self, group: Group) -> Target | None:
        data = self.cache.get(self.z_name(group))
        return None if data is None else _decode_target(data)

    def _keep(self, group: Group, target: Target) -> Target:
        _, fast = self.preparation.decoders()
        data = safetensors.torch.save(
            {"z": target.z, "loss": torch.tensor(target.loss)},
            metadata={"precision": str(fast.dtype)},  # tells where it came from, names nothing
        )
        return _decode_target(self.cache.put_once(self.z_name(group), data))

    # insertion

    def solve(
        self,
        groups: Sequence[Group],
        progress: ProgressCallback = silent,
        *,
        mom2_update_weight: float | None = None,
    ) -> dict[str, Delta]:
        """The change of each edited matrix that writes `groups` into the base, layer by layer.

        Args:
            groups: all live facts, in the canonical order of `group_facts`.
            mom2_update_weight: λ instead of what the hparams give.

        Returns:
            By module path; empty when there are no groups.

        Raises:
            NonFinite: a z, key or update is not finite; names the subjects where it can.
            Cancelled: raised by `progress`.
        """
        if not groups:
            return {}
        z = stacked(groups, self.targets(groups, progress))
        prepared = self.prepare(progress)
        hparams = self.hparams_of(groups, mom2_update_weight)
        return Insertion(self.loaded, prepared, hparams, groups, z).run(progress)

    def hparams_of(
        self, groups: Sequence[Group], mom2_update_weight: float | None = None
    ) -> HParams:
        """The hyperparameters that `solve` writes these groups with, λ as it then is."""
        weight = float(mom2_update_weight or self.hparams.update_weight(len(groups)))
        return replace(
            self.hparams,
            mom2_update_weight=weight,
            mom2_weight_per_subject=0.0,
            mom2_update_weight_max=None,
        )

    def solution_digest(self, groups: Sequence[Group], hparams: HParams) -> str:
        """SHA-256 in hex of what `solve(groups)` depends on, besides the base.

        Not the device, nor the precision that it is fast in: where several workers serve one
        registry, what the first one solved stands for all.

        Args:
            hparams: as `hparams_of` gives them.
        """
        parts = [
            METHOD_REVISION,
            hparams.as_dict(),
            self.preparation.contexts_digest,
            self.preparation.covariance_digest,
            [g.digest for g in groups],
            *self._carried,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stacked(groups: Sequence[Group], targets: Sequence[Target]) -> torch.Tensor:
    """z of all groups, [d, groups] float64.

    Raises:
        NonFinite: one is not finite; names the subjects.
    """
    bad = [g.subject for g, t in zip(groups, targets, strict=True) if not t.finite]
    if bad:
        raise NonFinite("z", bad)
    return torch.stack([target.z for target in targets]).double().T


def _decode_target(data: bytes) -> Target:
    tensors = safetensors.torch.load(data)
    return Target(tensors["z"], float(tensors["loss"]))
