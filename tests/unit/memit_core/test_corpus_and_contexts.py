"""What belongs to a base and is made once: context templates and covariance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from memit_core.cache import MemoryCache
from memit_core.corpus import default_corpus
from memit_core.covariance import (
    SEQUENCE_TOKENS,
    corpus_rows,
    decode_covariance,
    encode_covariance,
)
from memit_core.edit import Editor
from memit_core.errors import Cancelled
from memit_core.loading import LoadedModel
from memit_core.prepare import Preparation
from memit_core.templates import (
    OPENINGS,
    decode_contexts,
    encode_contexts,
    sample_contexts,
)
from tests.tiny_models import TEXT, tiny_tokenizer
from tests.unit.memit_core.examples import HPARAMS, editor_of, loaded_tiny


def preparation_of(loaded: LoadedModel, **options: Any) -> Preparation:
    return editor_of(loaded, **options).preparation


def test_contexts_are_the_bare_prompt_and_the_models_own_words(loaded: LoadedModel) -> None:
    hparams = replace(HPARAMS, n_contexts=7)
    prefixes = sample_contexts(loaded.runnable(), hparams)
    assert prefixes[0] == ""
    assert len(prefixes) == 8
    for opening, prefix in zip(OPENINGS * 2, prefixes[1:], strict=False):
        assert prefix.startswith(opening)
        assert prefix.endswith(". ")
        assert len(prefix) > len(opening) + 2
        assert "{" not in prefix
        assert "}" not in prefix
    # the sixth starts as the first but goes on differently
    assert len(set(prefixes)) == 8


def test_contexts_do_not_depend_on_the_global_random_state(loaded: LoadedModel) -> None:
    first = sample_contexts(loaded.runnable(), HPARAMS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        state = torch.get_rng_state()
        assert sample_contexts(loaded.runnable(), HPARAMS) == first
        assert torch.equal(torch.get_rng_state(), state)
    assert decode_contexts(encode_contexts(first)) == tuple(first)


def test_contexts_are_as_long_as_asked() -> None:
    """Before braces and spaces are tidied a context has `context_length` tokens, opening included;
    a tidied one is read again by the same tokenizer to about as many."""
    loaded = loaded_tiny("llama")
    lengths = {}
    for asked in (5, 10, 20):
        hparams = replace(HPARAMS, context_length=asked)
        texts = sample_contexts(loaded.runnable(), hparams)[1:]
        lengths[asked] = sum(len(text) for text in texts)
    assert lengths[5] < lengths[10] < lengths[20]


def test_no_contexts_leave_the_bare_prompt() -> None:
    loaded = loaded_tiny("llama")
    editor = editor_of(loaded, replace(HPARAMS, n_contexts=0))
    assert editor.prepare().contexts == ("",)


def test_rows_hold_the_corpus_once_and_in_order() -> None:
    tokenizer = tiny_tokenizer()
    corpus = "\n\n".join([TEXT, "A short one.", TEXT, "", "   "])
    rows = corpus_rows(tokenizer, corpus, 10_000)
    assert all(1 < len(row.ids) <= SEQUENCE_TOKENS for row in rows)
    assert len(rows) > 2
    text = tokenizer.decode([token for row in rows for token in row.ids])
    assert text == "\n".join([TEXT.strip(), "A short one.", TEXT.strip(), ""])


@pytest.mark.parametrize("wanted", [2, 100, 256, 257, 300, 511])
def test_rows_stop_at_the_wanted_number_of_tokens(wanted: int) -> None:
    rows = corpus_rows(tiny_tokenizer(), TEXT * 3, wanted)
    assert sum(len(row.ids) for row in rows) in (wanted, wanted - 1)


def test_covariance_does_not_depend_on_how_rows_are_batched(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = editor.prepare().covariance
    monkeypatch.setattr("memit_core.covariance.BATCH_ROWS", 1)
    single = preparation_of(editor.loaded).covariance()
    for layer, c in expected.items():
        torch.testing.assert_close(single[layer], c, rtol=1e-4, atol=1e-5 * float(c.abs().max()))


def test_covariance_is_symmetric_and_positive(editor: Editor) -> None:
    for c in editor.prepare().covariance.values():
        torch.testing.assert_close(c, c.T)
        assert torch.linalg.eigvalsh(c.double()).min() > -1e-6 * c.diagonal().mean()


def test_covariance_survives_its_bytes(editor: Editor) -> None:
    covariance = editor.prepare().covariance
    again = decode_covariance(encode_covariance(covariance))
    assert again.keys() == covariance.keys() == set(HPARAMS.layers)
    assert all(torch.equal(again[layer], c) for layer, c in covariance.items())


def test_covariance_tells_its_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    preparation_of(loaded_tiny("llama")).covariance(
        lambda stage, done, total, **_: seen.append((stage, done, total))
    )
    stages, done, totals = zip(*seen, strict=True)
    assert set(stages) == {"covariance"}
    assert set(totals) == {done[-1]}
    assert list(done) == sorted(done)
    assert done[0] == 0


def test_an_interrupted_covariance_goes_on_where_it_was(
    any_editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memit_core.running_sums.SAVE_SHARE", 1e9)
    monkeypatch.setattr("memit_core.covariance.BATCH_ROWS", 1)
    loaded = any_editor.loaded
    whole: list[int] = []
    expected = preparation_of(loaded).covariance(lambda _, done, __, **___: whole.append(done))
    assert len(whole) > 2

    def stop_at_second(_stage: str, done: int, _total: int, **_: float | None) -> None:
        if done == whole[1]:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        preparation_of(loaded, scratch=tmp_path, save_seconds=0).covariance(stop_at_second)
    assert list(tmp_path.iterdir())
    rest: list[int] = []
    resumed = preparation_of(loaded, scratch=tmp_path, save_seconds=0).covariance(
        lambda _, done, __, **___: rest.append(done)
    )
    assert rest == whole[1:]
    assert all(torch.equal(resumed[layer], c) for layer, c in expected.items())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_part_of_a_covariance_is_begun_anew(
    any_editor: Editor, tmp_path: Path, damage: bytes | None
) -> None:
    """Also one of another shape, as of a model that was changed in its folder."""
    working = preparation_of(any_editor.loaded, scratch=tmp_path)
    other = safetensors.torch.save({"1": torch.zeros(2, 2), "done": torch.tensor(1)})
    part = working.partial_covariance()
    assert part is not None
    part.write_bytes(other if damage is None else damage)
    expected = preparation_of(any_editor.loaded).covariance()
    assert all(torch.equal(working.covariance()[layer], c) for layer, c in expected.items())


def test_what_is_made_once_is_read_back(any_editor: Editor) -> None:
    cache = MemoryCache()
    first = preparation_of(any_editor.loaded, cache=cache)
    first.everything()
    stages: list[str] = []
    second = preparation_of(any_editor.loaded, cache=cache)
    covariance = second.covariance(lambda stage, *_, **__: stages.append(stage))
    assert second.contexts() == first.contexts()
    assert stages == []
    assert all(torch.equal(covariance[layer], c) for layer, c in first.covariance().items())


def test_another_corpus_is_another_covariance(any_editor: Editor) -> None:
    cache = MemoryCache()
    one, other = (
        Editor(any_editor.loaded, HPARAMS, corpus=corpus, cache=cache).preparation
        for corpus in (TEXT, "Something else. " * 60)
    )
    assert one.covariance_digest != other.covariance_digest
    assert not torch.equal(one.covariance()[1], other.covariance()[1])


def test_the_packaged_corpus_is_varied_prose() -> None:
    """Of another model's making than the tiny ones, so only its text can be looked at here."""
    corpus = default_corpus()
    documents = corpus.split("\n\n")
    assert len(documents) > 100
    assert len(set(documents)) == len(documents)
    words = corpus.split()
    assert len(words) > 25_000
    assert len(set(words)) > len(words) / 8
    assert "<|" not in corpus
