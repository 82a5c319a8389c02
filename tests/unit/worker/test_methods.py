"""Another method goes from an accepted edit to what is served, with nothing else changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from redis import Redis

from contracts.ids import digest_of
from contracts.settings import Settings
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.facts import Fact
from memit_core.methods import METHODS, Memit, Method
from memit_core.progress import ProgressCallback, silent
from memit_core.weights import Delta, LowRank
from tests.unit.worker.engine.stage import answers, ask, generated
from tests.unit.worker.workshop import Workshop, fact
from worker.deltas import Deltas
from worker.editing import method_of
from worker.engine.engine import Engine
from worker.engine.residents import Residents
from worker.engine.versioned import ServingView
from worker.lineage import OtherLineage, begin_lineage

TOKENS = 3


class Constant:
    """Adds the same change of rank one, as many times as there are facts."""

    name = "constant"
    revision = 7
    ordered = False
    asked: ClassVar[list[list[str]]] = []

    def __init__(self, editor: Editor) -> None:
        self.asked.clear()
        self._structure = editor.structure

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:
        progress("prepare", 1, 1)
        return {}

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:
        return {"times": len(facts), **given}

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:
        progress("prepare", 1, 1)
        return [one for one in facts if one.subject == "nobody"]

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        progress("insert", 0, len(facts))
        self.asked.append([one.subject for one in facts])
        draw = torch.Generator().manual_seed(0)
        left = torch.randn(self._structure.hidden, 1, generator=draw)
        right = torch.randn(self._structure.intermediate, 1, generator=draw)
        return {self._structure.projections[2]: LowRank(options["times"] * left, right)}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        return digest_of([[one.content for one in facts], options["times"]])


def makes(editor: Editor) -> Method:
    return Constant(editor)


@pytest.fixture
def constant(registry_path: Path, redis_url: str) -> Workshop:
    return Workshop(registry_path, Redis.from_url(redis_url), method=makes)


def served(workshop: Workshop, version: str, prompt: str) -> str:
    """What an engine of its own answers, which reads the registry."""
    base = workshop.registry.versions.resolve("v0")
    loaded, structure = workshop.editor.loaded, workshop.editor.structure
    view = ServingView(loaded.model, base)
    residents = Residents(
        view,
        loaded,
        structure,
        workshop.registry,
        Deltas(workshop.registry.blobs),
        base_version=base,
        budget=2**30,
    )
    engine = Engine(loaded, view, residents, worker="w", max_batch=4, max_context=200, max_parked=4)
    return answers(engine, [ask(engine, prompt, version, max_tokens=TOKENS)])[0]


def test_another_method_is_served(constant: Workshop) -> None:
    version = constant.version([fact("Anna"), fact("Martin")])
    manifest = constant.registry.versions.get(version)
    assert (manifest.method, manifest.method_revision) == ("constant", 7)
    assert manifest.hparams == {"times": 2}
    assert [weight.rank for weight in manifest.weights] == [1]
    solved = Constant(constant.editor).solve([], {"times": 2}, silent)
    model = constant.editor.apply(solved)
    prompt = "Anna lives in the town of"
    expected = generated(model, constant.editor.loaded.tokenizer, prompt, TOKENS)
    assert served(constant, version, prompt) == expected
    assert served(constant, constant.registry.versions.resolve("v0"), prompt) != expected


def test_facts_that_it_cannot_write_are_left_out(constant: Workshop) -> None:
    one, two = fact("Anna"), fact("nobody")
    end = constant.run([one, two], drop_failed=True)
    # Nor has it taught the other one, for which alone it was asked.
    assert end.problem is not None
    assert "no fact of the edit was learned" in end.problem.detail
    assert Constant.asked == [["Anna"]]


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_lost_blob_is_put_again_though_its_change_is_in_memory(
    constant: Workshop, damage: str
) -> None:
    first = constant.version([fact("Anna")])
    (weight,) = constant.registry.versions.get(first).weights
    file = constant.registry.store.root / "blobs" / "sha256" / weight.blob[:2] / weight.blob
    data = bytearray(file.read_bytes())
    file.chmod(0o600)
    file.unlink()
    if damage == "flipped":
        data[-1] ^= 1
        file.write_bytes(data)
    again = constant.version([fact("Anna")])
    assert constant.registry.versions.get(again).weights == [weight]
    assert constant.registry.blobs.get(weight.blob)
    assert len(Constant.asked) == 2


def test_a_registry_keeps_itsmethod_of(constant: Workshop) -> None:
    with pytest.raises(OtherLineage, match="written by constant, not by memit"):
        begin_lineage(constant.registry, constant.editor, Memit(constant.editor))


def test_a_method_is_chosen_by_its_name(
    constant: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "constant", makes)
    assert method_of(Settings(method="constant"), constant.editor).name == "constant"
    assert method_of(Settings(), constant.editor).name == "memit"
    with pytest.raises(MemitError, match="no editing method 'romy'; there is alphaedit, constant"):
        method_of(Settings(method="romy"), constant.editor)
