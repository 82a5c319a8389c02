"""The scatter of a name's keys over the texts before it, and λ by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from memit_core.context_scatter import (
    NAMES,
    SENTENCES,
    context_scatter,
    phrases,
    scatter_rows,
    sentences,
)
from memit_core.corpus import default_corpus
from memit_core.errors import MemitError
from memit_core.facts import group_facts
from memit_core.views import view_of
from memit_core.weights import decode
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import FACTS, HPARAMS, editor_of, loaded_tiny

PROSE = (
    "The old town of Berlin lies in the east. In May the boy met Anna Maria Keller there.\n"
    "Nobody knew what Peter would say. They all went home to Oslo, and Emma slept until noon."
)


def test_sentences_are_whole_and_of_one_line() -> None:
    assert sentences(PROSE) == [
        "The old town of Berlin lies in the east.",
        "In May the boy met Anna Maria Keller there.",
        "Nobody knew what Peter would say.",
        "They all went home to Oslo, and Emma slept until noon.",
    ]
    assert sentences("Short. And this one has no end though it is long enough to be taken") == []
    chinese = "这座古老的城市位于这个国家的东部地区并且非常美丽而且很有名所以人们都喜欢去那里旅行。"
    assert sentences(chinese * 2) == [chinese]


def test_names_are_capitalised_words_within_a_sentence() -> None:
    found = phrases(PROSE)
    assert {"Berlin", "Anna", "Anna Maria", "Anna Maria Keller", "Peter", "Oslo", "Emma"} <= set(
        found
    )
    many = " ".join(f"then Name{chr(97 + i % 26)}{chr(97 + i // 26)} came." for i in range(400))
    names = phrases(many)
    assert len(names) == NAMES == len(set(names))
    assert all(name.startswith("Name") for name in names)


def test_any_words_stand_in_where_a_script_has_no_capitals() -> None:
    assert phrases("город был очень стар, и река") == sorted(
        ["город", "был", "очень", "стар", "и", "река"]
    )


def test_the_packaged_sample_has_names_and_sentences_enough(any_tokenizer: Any) -> None:
    rows = scatter_rows(any_tokenizer, default_corpus())
    assert len(rows) == NAMES
    assert {len(of_name) for of_name in rows} == {SENTENCES}
    assert all(row.lookup == len(row.ids) - 1 for of_name in rows for row in of_name)


@pytest.fixture(scope="module")
def any_tokenizer() -> Any:
    return loaded_tiny("llama").tokenizer


@pytest.mark.parametrize("corpus", ["", "no sentence at all", "Only one sentence that is long."])
def test_a_corpus_without_sentences_is_refused(any_tokenizer: Any, corpus: str) -> None:
    with pytest.raises(MemitError, match="too few sentences for mom2_context_weight"):
        scatter_rows(any_tokenizer, corpus)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_scatter_is_that_of_keys_about_their_names_mean(name: str) -> None:
    editor = editor_of(loaded_tiny(name))
    tokenizer, model, layer = editor.loaded.tokenizer, editor.loaded.model, 2
    rows = scatter_rows(tokenizer, PROSE)[:11]
    told: list[int] = []
    found = context_scatter(
        view_of(model), editor.structure, (1, layer), tokenizer, rows, told.append
    )
    keys: list[torch.Tensor] = []
    module = model.get_submodule(editor.structure.projections[layer])
    handle = module.register_forward_pre_hook(lambda _, args: keys.append(args[0][0, -1].double()))
    expected = torch.zeros_like(found[layer])
    with torch.no_grad():
        for of_name in rows:
            keys.clear()
            for row in of_name:
                model(input_ids=torch.tensor([row.ids]))
            mean = torch.stack(keys).mean(0)
            for key in keys:
                expected += torch.outer(key - mean, key - mean)
    handle.remove()
    expected /= len(rows) * (len(rows[0]) - 1)
    assert expected.norm() > 0
    assert (found[layer] - expected).norm() < 1e-4 * expected.norm()
    assert told == [0, sum(len(row.ids) for of_name in rows[:8] for row in of_name)]


def test_the_covariance_holds_its_share_of_the_scatter() -> None:
    loaded = loaded_tiny("llama")
    corpus = f"{TEXT}\n\n{PROSE}"
    plain = editor_of(loaded)
    plain.corpus = corpus
    told: list[tuple[int, int]] = []
    with_it = editor_of(loaded, replace(HPARAMS, mom2_context_weight=3.0))
    with_it.corpus = corpus
    found = with_it.covariance(lambda _, done, total, **__: told.append((done, total)))
    rows = scatter_rows(loaded.tokenizer, corpus)
    scatter = context_scatter(
        view_of(loaded.model),
        plain.structure,
        HPARAMS.layers,
        loaded.tokenizer,
        rows,
        lambda _: None,
    )
    for layer, c in plain.covariance().items():
        torch.testing.assert_close(found[layer], c + 3 * scatter[layer], rtol=1e-5, atol=1e-6)
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]
    assert with_it.covariance_digest != plain.covariance_digest


def test_lambda_is_multiplied_layer_by_layer() -> None:
    """Twice λ at every layer is λ doubled; and a layer's own factor moves that layer."""
    loaded, groups = loaded_tiny("llama"), group_facts(FACTS)
    small = replace(HPARAMS, v_num_grad_steps=3)
    plain = editor_of(loaded, small)
    twice = editor_of(loaded, replace(small, mom2_layer_weights=(2.0, 2.0)))
    first = editor_of(loaded, replace(small, mom2_layer_weights=(2.0, 1.0)))
    usual = plain.solve(groups)
    doubled = plain.solve(groups, mom2_update_weight=40.0)
    assert twice.solve(groups) == doubled
    assert first.solve(groups)[1] == doubled[1]
    assert first.solve(groups)[2] not in (usual[2], doubled[2])
    norms = [
        float(decode(solved[1]).matrix(torch.device("cpu")).norm()) for solved in (usual, doubled)
    ]
    assert norms[1] < norms[0]
