"""Which hyperparameters a registry has: those that it was begun with."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.transport import CHAT_TEMPLATE_ARTEFACT
from memit_core.edit import Editor
from memit_core.hparams import HParams
from memit_core.methods import Memit
from registry.folder_store import FolderStore
from registry.registry import Registry
from tests.unit.memit_core.examples import HPARAMS, editor_of, loaded_tiny
from worker import lineage
from worker.lineage import OtherLineage, await_lineage, begin_lineage, begun_with
from worker.progress import Interrupted


def begun(registry: Registry, **changed: Any) -> Editor:
    """An editor, and a registry whose v0 holds its hyperparameters, changed so; None: left out."""
    editor = editor_of(loaded_tiny("llama"), HPARAMS)
    first = lineage._first(registry, editor, Memit(editor))
    hparams = {k: v for k, v in {**first.hparams, **changed}.items() if v is not None}
    registry.versions.commit(first.model_copy(update={"hparams": hparams}))
    return editor


def known(registry: Registry, editor: Editor) -> HParams | None:
    return begun_with(registry, editor.loaded.digest)


def test_an_empty_registry_and_that_of_another_base_have_none(registry_path: Path) -> None:
    registry = Registry(FolderStore(registry_path))
    assert begun_with(registry, "0" * 64) is None
    editor = begun(registry)
    assert begun_with(registry, "0" * 64) is None
    assert known(registry, editor) == HPARAMS


def test_a_name_that_came_with_a_later_release_has_its_default(registry_path: Path) -> None:
    """So what it does stays off in a registry that was begun before."""
    registry = Registry(FolderStore(registry_path))
    editor = begun(registry, reweight_factor=None)
    first = begin_lineage(registry, editor, Memit(editor))
    assert "reweight_factor" not in registry.versions.get(first).hparams
    assert known(registry, editor) == HPARAMS


def test_a_name_that_this_release_does_not_know_is_named(registry_path: Path) -> None:
    registry = Registry(FolderStore(registry_path))
    editor = begun(registry, v_from_the_future=3)
    with pytest.raises(OtherLineage, match=r"another release .*v_from_the_future"):
        known(registry, editor)
    with pytest.raises(OtherLineage, match=r"another release .*v_from_the_future"):
        begin_lineage(registry, editor, Memit(editor))


def test_other_values_are_refused_by_name(registry_path: Path) -> None:
    registry = Registry(FolderStore(registry_path))
    begun(registry)
    other = editor_of(loaded_tiny("llama"), replace(HPARAMS, v_lr=0.3))
    with pytest.raises(OtherLineage, match=r"v_lr = .*, not 0\.3"):
        begin_lineage(registry, other, Memit(other))


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"])
def test_the_chat_template_lies_beside_the_tokenizer(
    registry_path: Path, template: str | None
) -> None:
    registry = Registry(FolderStore(registry_path))
    editor = editor_of(loaded_tiny("llama"), HPARAMS)
    editor.loaded.tokenizer.chat_template = template
    begin_lineage(registry, editor, Memit(editor))
    published = registry.artefacts(editor.loaded.digest).get(CHAT_TEMPLATE_ARTEFACT)
    assert json.loads(published or b"") == {"chat_template": template}


def test_an_engine_waits_for_an_editor_to_begin_and_takes_no_other_model(
    registry_path: Path,
) -> None:
    registry, stopping = Registry(FolderStore(registry_path)), threading.Event()
    editor = editor_of(loaded_tiny("llama"), HPARAMS)
    stopping.set()
    with pytest.raises(Interrupted):
        await_lineage(registry, editor.loaded, stopping, 0.01)
    stopping.clear()
    begin = threading.Timer(0.1, begin_lineage, [registry, editor, Memit(editor)])
    begin.start()
    assert await_lineage(registry, editor.loaded, stopping, 0.01) == registry.versions.resolve("v0")
    with pytest.raises(OtherLineage, match="start with that model"):
        await_lineage(registry, loaded_tiny("gpt2"), stopping, 0.01)
