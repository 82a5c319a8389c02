"""Whatever goes wrong at whatever stage: the base is as it was, bit for bit, and works on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from memit_core.cache import MemoryCache
from memit_core.covariance import compute_covariance
from memit_core.edit import Editor
from memit_core.errors import Cancelled, MemitError, NonFinite
from memit_core.facts import Fact, group_facts
from memit_core.loading import LoadedModel, base_digest, weights_digest
from memit_core.progress import silent
from memit_core.solve import Solver
from memit_core.views import view_of
from tests.device import DEVICE
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import FACTS, HPARAMS, by_layer, editor_of, loaded_tiny

STAGES = ("templates", "covariance", "factors", "z", "insert")


def stopping(stage: str, at: int, error: BaseException) -> Callable[..., None]:
    """A progress that raises at the `at`-th call in a stage."""
    calls = 0

    def progress(name: str, done: int, total: int, *, loss: float | None = None) -> None:
        nonlocal calls
        calls += name == stage
        if name == stage and calls == at:
            raise error

    return progress


def run(editor: Editor, progress: Callable[..., None]) -> dict[int, bytes]:
    editor.prepare(progress)
    editor.preparation.factorise(progress)
    return editor.solve(group_facts(FACTS), progress)


def assert_untouched(loaded: LoadedModel) -> None:
    assert base_digest(loaded.model, loaded.tokenizer) == loaded.digest
    assert not loaded.model.training
    for module in loaded.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for parameter in loaded.model.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_an_edit_leaves_its_base_untouched(loaded: LoadedModel, editor: Editor) -> None:
    edited = editor.apply(run(editor, silent))
    ids = torch.tensor([[5, 80]], device=DEVICE)
    edited.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
    assert weights_digest(edited) != weights_digest(loaded.model)
    assert_untouched(loaded)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("at", "error"), [(1, Cancelled("by a test")), (2, KeyboardInterrupt())], ids=str
)
def test_a_stop_at_any_stage_leaves_the_base_untouched(
    stage: str, at: int, error: BaseException
) -> None:
    loaded = loaded_tiny("llama")
    expected = run(editor_of(loaded), silent)
    cache = MemoryCache()
    stopped = editor_of(loaded, cache=cache)
    with pytest.raises(type(error)):
        run(stopped, stopping(stage, at, error))
    assert_untouched(loaded)
    # the same editor goes on, and another one with what the stopped one kept
    assert run(stopped, silent) == expected
    assert run(editor_of(loaded, cache=cache), silent) == expected


def test_an_edit_that_fails_while_it_inserts_leaves_the_base_untouched(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer fails when the first is already written into the view."""
    calls = 0
    solve = Solver.solve

    def second_fails(solver: Solver, keys: torch.Tensor, weight: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return solve(solver, keys, weight)

    monkeypatch.setattr(Solver, "solve", second_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        editor_of(loaded).solve(group_facts(FACTS))
    assert_untouched(loaded)


def with_bad_token(text: str) -> LoadedModel:
    """A model whose embedding of the last token of `text` is NaN."""
    loaded = loaded_tiny("gptj")
    token = loaded.tokenizer(text)["input_ids"][-1]
    loaded.model.get_input_embeddings().weight[token] = torch.nan
    return loaded


def test_a_fact_without_a_finite_z_is_named_and_harms_no_other() -> None:
    facts = [
        Fact("Anna Keller", "{} works as a", "baker"),
        Fact("Lisbon ~", "{} lies in", "Spain"),
        Fact("Martin Okafor", "{} plays the", "violin"),
    ]
    loaded = with_bad_token("~")
    cache = MemoryCache()
    editor = editor_of(loaded, cache=cache)
    groups = group_facts(facts)
    with pytest.raises(NonFinite, match="Lisbon ~") as caught:
        editor.solve(groups)
    assert caught.value.subjects == ("Lisbon ~",)
    targets = dict(zip([g.subject for g in groups], editor.targets(groups), strict=True))
    assert {subject: t.finite for subject, t in targets.items()} == {
        "Anna Keller": True,
        "Lisbon ~": False,
        "Martin Okafor": True,
    }
    # its batch mates got what they get without it, and it is not kept
    others = group_facts([facts[0], facts[2]])
    for group, alone in zip(others, editor_of(loaded).targets(others), strict=True):
        torch.testing.assert_close(targets[group.subject].z, alone.z, rtol=1e-3, atol=1e-3)
        assert cache.get(editor.z_name(group)) is not None
    assert cache.get(editor.z_name(groups[1])) is None
    assert by_layer(editor, editor.solve(others)).keys() == set(HPARAMS.layers)
    assert weights_digest(loaded.model) == weights_digest(view_of(loaded.model))


def test_a_covariance_that_is_not_finite_is_refused_and_not_kept() -> None:
    loaded = with_bad_token(" Lisbon")
    cache = MemoryCache()
    editor = editor_of(loaded, cache=cache)
    with pytest.raises(NonFinite, match="covariance"):
        editor.preparation.covariance()
    assert cache.get(f"covariance/{editor.preparation.covariance_digest}") is None


def test_a_corpus_without_text_is_refused() -> None:
    loaded = loaded_tiny("llama")
    with pytest.raises(MemitError, match="no text"):
        compute_covariance(loaded.runnable(), HPARAMS, " \n\n ", silent)
    assert TEXT.strip()


def test_layers_beyond_the_model_are_refused() -> None:
    with pytest.raises((MemitError, ValueError), match="4 blocks"):
        editor_of(loaded_tiny("llama"), type(HPARAMS)(layers=(3, 4)))


def test_a_prompt_over_the_limit_is_refused_before_anything_runs() -> None:
    stages: list[str] = []
    editor = editor_of(loaded_tiny("llama"), max_tokens=8)
    with pytest.raises(MemitError, match="at most 8"):
        editor.solve(
            group_facts([Fact("Anna", "I think that {} was born in", "Lisbon")]),
            lambda stage, *_, **__: stages.append(stage),
        )
    assert stages == []
