"""What the engine's tests stand on: a tiny model, a registry with random versions, an engine.

The tokenizer writes token 17 as "t17", so that comparing texts is comparing tokens.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from contracts.errors import Problem
from contracts.generation import (
    EndEvent,
    ErrorEvent,
    GenerateEvent,
    GenerateTask,
    StartEvent,
    TokenEvent,
)
from contracts.keys import LOCAL
from contracts.sampling import Sampling
from contracts.versions import LayerWeights, VersionManifest
from memit_core.discover import discover
from memit_core.loading import LoadedModel, adopt_model
from memit_core.packed import PackedConv1D, PackedLinear
from memit_core.structure import Structure
from memit_core.weights import LowRank, encode_delta
from registry.folder_store import FolderStore
from registry.registry import Registry
from tests.device import DEVICE
from tests.tiny_models import VOCABULARY, tiny_model
from worker.deltas import Deltas
from worker.engine.engine import Engine
from worker.engine.residents import Residents
from worker.engine.versioned import ServingView

PROMPTS = [
    "t11 t7 t300",
    "t42",
    "t5 t400 t401 t9 t77 t500 t31 t8 t9 t10 t11 t12 t13",
    "t99 t98 t97 t96 t95 t94",
    "t3 t1 t4 t1 t5 t9 t2 t6 t5 t3 t5 t8 t9 t7 t9 t3 t2 t3 t8 t4 t6 t2 t6 t4 t3 t3 t8 t3",
    "t256 t128 t64 t32",
]
EDITED_BLOCKS = (1, 2)
RANK = 3


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: "t0" to "t511"; "t0" is the end of text and not shown.

    "t512" is a token that the tiny models have no embedding for: a forward over it fails.
    """
    words = models.WordLevel({f"t{i}": i for i in range(VOCABULARY + 1)}, unk_token="t1")
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="t0")


@dataclass
class Stage:
    """A loaded model and a registry in which v0 stands; `publish` adds versions."""

    loaded: LoadedModel
    structure: Structure
    root: Path
    registry: Registry
    deltas: dict[str, dict[str, LowRank]] = field(default_factory=dict)

    @property
    def base_version(self) -> str:
        return self.registry.versions.resolve("v0")

    def publish(
        self, seed: int, blocks: Iterable[int] = EDITED_BLOCKS, *, scale: float = 0.3
    ) -> str:
        """Commit a version with random changes of the projections of these blocks; its id."""
        draw = torch.Generator().manual_seed(seed)
        deltas = {}
        for block in blocks:
            left = torch.randn(self.structure.hidden, RANK, generator=draw)
            right = torch.randn(self.structure.intermediate, RANK, generator=draw)
            deltas[self.structure.projections[block]] = LowRank(scale * left, scale * right)
        weights = [
            LayerWeights(
                layer=self.structure.projections.index(path),
                module=path,
                blob=self.registry.blobs.put(encode_delta(delta)),
                kind="low_rank",
                rank=delta.rank,
            )
            for path, delta in deltas.items()
        ]
        version = self.registry.versions.commit(self._manifest(weights))
        assert version is not None
        self.deltas[version] = deltas
        return version

    def publish_base(self) -> str:
        version = self.registry.versions.commit(self._manifest([]))
        assert version is not None
        return version

    def _manifest(self, weights: list[LayerWeights]) -> VersionManifest:
        return VersionManifest(
            seq=self.registry.versions.tip() + 1,
            created_at=time.time(),
            base=self.loaded.digest,
            model=self.loaded.name,
            dtype=self.loaded.dtype_name,
            hparams={},
            live=self.registry.ledger.put_live([]),
            live_count=0,
            weights=weights,
        )

    def merged(self, version: str) -> Any:
        """The reference: a copy of the whole model with the version's changes added."""
        model = copy.deepcopy(self.loaded.model)
        for path, delta in self.deltas.get(version, {}).items():
            module = model.get_submodule(path)
            change = (delta.left @ delta.right.T).to(module.weight.device)
            module.weight += change.T if isinstance(module, Conv1D) else change
        return model

    def engine(self, **overrides: Any) -> Engine:
        """An engine with an own serving view; see `Engine` and `Residents` for the overrides."""
        view = ServingView(self.loaded.model, self.base_version)
        residents = Residents(
            view,
            self.loaded,
            self.structure,
            self.registry,
            Deltas(self.registry.blobs),
            base_version=self.base_version,
            budget=self.budget(overrides.pop("limit", 4)),
            rebuild=overrides.pop("rebuild", None),
        )
        options = {"worker": "w", "max_batch": 16, "max_context": 2048, "max_parked": 64}
        return Engine(self.loaded, view, residents, **(options | overrides))

    def budget(self, versions: int) -> int:
        """Bytes for so many published versions, and not quite one more."""
        projections = [self.structure.projections[block] for block in EDITED_BLOCKS]
        modules = [self.loaded.model.get_submodule(path) for path in projections]
        packed = isinstance(modules[0], (PackedLinear, PackedConv1D))
        one = (1 + packed) * sum(module.weight.nbytes for module in modules)
        return (versions + 1) * one - 1

    def blob_files(self, version: str) -> list[Path]:
        digests = [w.blob for w in self.registry.versions.get(version).weights]
        return [self.root / "blobs" / "sha256" / digest[:2] / digest for digest in digests]

    def generated(self, version: str, prompt: str, max_tokens: int = 12, **options: Any) -> str:
        """What plain `generate` answers on the merged weights."""
        model = self.merged(version)
        return generated(model, self.loaded.tokenizer, prompt, max_tokens, **options)


def make_stage(name: str, root: Path, tokenizer: Any = None) -> Stage:
    loaded = adopt_model(tiny_model(name).to(DEVICE), tokenizer or plain_tokenizer(), name=name)
    stage = Stage(loaded, discover(loaded.model), root, Registry(FolderStore(root)))
    stage.publish_base()
    return stage


class Listener:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[GenerateEvent] = []

    def __call__(self, event: GenerateEvent) -> None:
        self.events.append(event)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TokenEvent))

    @property
    def started(self) -> bool:
        return any(isinstance(event, StartEvent) for event in self.events)

    @property
    def end(self) -> EndEvent | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, EndEvent) else None

    @property
    def problem(self) -> Problem | None:
        last = self.events[-1] if self.events else None
        return last.problem if isinstance(last, ErrorEvent) else None

    @property
    def done(self) -> bool:
        return self.end is not None or self.problem is not None


def task(
    prompt: str,
    version: str,
    *,
    deadline: float = 60,
    principal: str = LOCAL,
    priority: int = 0,
    **sampling: Any,
) -> GenerateTask:
    return GenerateTask(
        principal=principal,
        priority=priority,
        id=f"gen-{secrets.token_hex(10)}",
        prompt=prompt,
        version=version,
        sampling=Sampling(**{"max_tokens": 12, **sampling}),
        deadline=time.time() + deadline,
    )


def ask(engine: Engine, prompt: str, version: str, **options: Any) -> Listener:
    """Submit a request; its listener."""
    listener = Listener()
    engine.submit(task(prompt, version, **options), listener)
    return listener


def run_until(
    engine: Engine, happened: Callable[[], bool], *, seconds: float = 20, pause: float = 0.0
) -> None:
    """Step until something happened; loads go on in other threads meanwhile.

    Args:
        pause: seconds between steps, for loads that shall be done before the answers are.
    """
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        engine.step()
        if pause or not engine.running:
            time.sleep(pause or 0.001)


def wait_for(happened: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait until something happened in another thread or process."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def answers(engine: Engine, listeners: list[Listener]) -> list[str]:
    """Step until all are complete; their texts."""
    run_until(engine, lambda: all(listener.done for listener in listeners))
    assert [listener.problem for listener in listeners] == [None] * len(listeners)
    return [listener.text for listener in listeners]


def generated(model: Any, tokenizer: Any, prompt: str, max_tokens: int = 12, **options: Any) -> str:
    """What plain `generate` answers, as the text that it adds to the prompt."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
    settings = {"do_sample": False, "pad_token_id": 0, **options}
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, **settings
        )
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    return tokenizer.decode(out[0], skip_special_tokens=True)[len(before) :]
