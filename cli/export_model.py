"""The parts of an export that need the base model and torch: whole folders, and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from cli import output
from cli.client import Client
from cli.errors import CommandFailed
from cli.eval_progress import TerminalProgress
from cli.exported import ADAPTER, Exported
from memit_core.insert import edited
from memit_core.loading import LoadedModel, load_model
from memit_core.merge import merge
from memit_core.saving import save_model
from memit_core.target_scores import score_targets
from memit_core.weights import LowRank, decode_delta

if TYPE_CHECKING:
    from memit_core.model import Model
    from memit_core.weights import Delta

MOST_PROMPTS = 64
"""Facts whose prompts' logits are compared."""


@dataclass(frozen=True)
class Check:
    """A folder's weights against the version's own."""

    logits: float
    """The largest difference of a logit on prompts of the facts."""
    asked: int
    """Facts that the version answers, greedily and to the end."""
    lost: list[str]
    """Ids of those that the folder's weights do not answer."""


def make_merged(
    found: Exported, deltas: Path, folder: Path, model: str | None, check: bool
) -> Check | None:
    """Write base and changes together as a folder that `from_pretrained` opens.

    Args:
        deltas: an unpacked delta.
        model: the base's folder or hub name, if not as the version says.

    Raises:
        CommandFailed: it is another base, or a change is damaged.
        MemitError, OSError, ValueError: the base cannot be loaded, or the folder not written.
    """
    with TerminalProgress(output.messages()) as progress:
        loaded = _base(found, model, progress)
        solved = {
            one.module: _delta(
                (deltas / "weights" / f"{one.blob}.safetensors").read_bytes(), one.blob
            )
            for one in found.version.weights
        }
        before = _Answers.of(edited(loaded, solved), found) if check else None
        merge(loaded, solved)
        progress("save model", 0, 1)
        save_model(loaded.model, loaded.tokenizer, folder)
        progress("save model", 1, 1)
        if before is None:
            return None
        del loaded
        saved = load_model(folder, device="cpu", dtype=found.version.dtype, progress=progress)
        return before.against(_Answers.of(saved.runnable(), found))


def check_adapter(found: Exported, url: str, model: str | None) -> Check:
    """Ask an adapter, added to the base's weights, for the version's facts.

    Raises:
        CommandFailed: it is another base, or a change is damaged.
        MemitError, OSError, ValueError: the base cannot be loaded.
    """
    data = found.read(ADAPTER)
    if data is None:
        raise CommandFailed(f"the folder has no {ADAPTER}")
    adapter = safetensors.torch.load(data)
    with TerminalProgress(output.messages()) as progress, Client(url) as client:
        loaded = _base(found, model, progress)
        theirs, ours = {}, {}
        for one in found.version.weights:
            theirs[one.module] = _delta(client.call("GET", f"/blobs/{one.blob}").content, one.blob)
            name = f"base_model.model.{one.module}.lora_"
            ours[one.module] = LowRank(adapter[f"{name}B.weight"], adapter[f"{name}A.weight"].T)
        before = _Answers.of(edited(loaded, theirs), found)
        return before.against(_Answers.of(edited(loaded, ours), found))


def _base(found: Exported, model: str | None, progress: TerminalProgress) -> LoadedModel:
    version = found.version
    loaded = load_model(
        model or version.model, device="cpu", dtype=version.dtype, progress=progress
    )
    if loaded.digest != version.base:
        raise CommandFailed(
            f"{loaded.name} is not the base of {version.id}: its digest is {loaded.digest}, the "
            f"version's base is {version.base}; name the right one with --model"
        )
    return loaded


def _delta(data: bytes, digest: str) -> Delta:
    if hashlib.sha256(data).hexdigest() != digest:
        raise CommandFailed(f"blob {digest} is damaged: its bytes have another digest")
    return decode_delta(data)


@dataclass(frozen=True)
class _Answers:
    ids: list[str]
    known: list[bool]
    logits: list[torch.Tensor]

    @classmethod
    def of(cls, model: Model, found: Exported) -> _Answers:
        facts = [live.fact for live in found.facts]
        pairs = [(fact.filled, fact.target_new) for fact in facts]
        scores = score_targets(model, pairs, ends=range(len(pairs))) if pairs else []
        logits = _logits(model, (fact.filled for fact in facts[:MOST_PROMPTS]))
        return cls([live.id for live in found.facts], [one.exact for one in scores], logits)

    def against(self, other: _Answers) -> Check:
        pairs = zip(self.logits, other.logits, strict=True)
        difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
        rows = list(zip(self.ids, self.known, other.known, strict=True))
        lost = [fact for fact, before, after in rows if before and not after]
        return Check(difference, sum(self.known), lost)


@torch.no_grad()
def _logits(model: Model, prompts: Iterable[str]) -> list[torch.Tensor]:
    """[tokens, vocabulary] float32 of each prompt."""
    encoded = (model.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts)
    return [model.view(input_ids=ids).logits[0].float() for ids in encoded]
