"""Free generations and what is measured of texts."""

from __future__ import annotations

import math

import pytest
import torch

from memit_core.edit import Editor
from memit_core.eval import extras, free_generation
from memit_core.eval.extras import MissingExtra, need
from memit_core.eval.free_generation import GenerationScores
from memit_core.eval.generation import BATCH_ROWS, free_texts
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record
from memit_core.eval.text_scores import ReferenceScore, generation_entropy, ngram_entropy
from memit_core.evaluate import CONTROL_CHARS, ControlText
from memit_core.facts import Fact
from memit_core.held_out import HeldOutText
from memit_core.progress import silent
from memit_core.views import set_weight
from tests.tiny_models import TEXT

PROMPTS = ["The boy", "The lighthouse keeper at the edge of the bay", "Anna", "In 1931 the company"]


def greedily(editor: Editor, prompt: str, tokens: int) -> str:
    """One token after the other, without padding or cache."""
    view, tokenizer = editor.base.view, editor.loaded.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        while len(ids) < tokens:
            ids.append(int(view(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_padding_changes_no_text(editor: Editor) -> None:
    texts = free_texts(editor.base, PROMPTS, seed=0, tokens=24, top_k=1)
    assert texts == [greedily(editor, prompt, 24) for prompt in PROMPTS]


def test_sampling_is_seeded_and_leaves_the_global_state(any_editor: Editor) -> None:
    model = any_editor.base
    many = [f"{prompt} {i}" for i in range(BATCH_ROWS // 2) for prompt in PROMPTS]
    state = torch.random.get_rng_state()
    first = free_texts(model, many, seed=1, tokens=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == free_texts(model, many, seed=1, tokens=20)
    assert first != free_texts(model, many, seed=2, tokens=20)
    assert all(text.startswith(prompt) for text, prompt in zip(first, many, strict=True))


def test_only_the_likeliest_five_are_sampled(any_editor: Editor) -> None:
    model = any_editor.base
    tokenizer = model.tokenizer
    ids = tokenizer("The boy")["input_ids"]
    best = model.view(torch.tensor([ids])).logits[0, -1].topk(5).indices.tolist()
    allowed = {tokenizer.decode([*ids, i], skip_special_tokens=True) for i in best}
    drawn = free_texts(model, ["The boy"] * 200, seed=0, tokens=len(ids) + 1)
    assert set(drawn) == allowed


def test_entropy_by_hand() -> None:
    # bigrams: ab ba ab ba ab, so 3/5 and 2/5; trigrams: aba bab aba bab, so 1/2 and 1/2
    bigrams = -(3 / 5) * math.log2(3 / 5) - (2 / 5) * math.log2(2 / 5)
    assert ngram_entropy(["a", "b", "a", "b", "a", "b"], 2) == pytest.approx(bigrams)
    assert ngram_entropy(["a", "b", "a", "b", "a", "b"], 3) == pytest.approx(1)
    one = (2 / 3 * bigrams + 4 / 3 * 1) / 2
    assert generation_entropy(["a b a b a b"]) == pytest.approx(one)
    # four words that all differ: three bigrams and two trigrams, all once
    other = (2 / 3 * math.log2(3) + 4 / 3 * 1) / 2
    assert generation_entropy(["a b a b a b", "p q r s"]) == pytest.approx((one + other) / 2)
    assert generation_entropy(["same same same same"]) == 0
    assert generation_entropy(["short"]) == 0
    assert generation_entropy([]) is None


def test_words_are_split_from_punctuation() -> None:
    # "no" "," "no" "," "no": two bigrams, each twice; trigrams: "no , no" twice, ", no ," once
    trigrams = -(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3)
    assert generation_entropy(["no, no, no"]) == pytest.approx((2 / 3 + 4 / 3 * trigrams) / 2)


def test_reference_score_by_hand() -> None:
    score = ReferenceScore(["red green", "red blue"])
    # smoothed weights: ln((1 + 2) / (1 + 2)) + 1 = 1 for red, ln(3 / 2) + 1 for the others
    rare = math.log(3 / 2) + 1
    cosine = 1 / (math.sqrt(1 + rare**2) * math.sqrt(1 + rare**2))
    assert score(["red", "green"], ["red blue"]) == pytest.approx(cosine)
    assert score(["green red"], ["red", "green"]) == pytest.approx(1)
    assert score(["nothing known"], ["red"]) == 0


def test_of_records_with_prompts_the_texts_are_measured_normalised(
    any_editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = Fact("Lyon", "{} is", "old")
    asked = Record(3, fact, (), (), ("Lyon", "In Lyon"), ("the cafe there",))
    silent_one = Record(4, fact, (), ())
    monkeypatch.setattr(free_generation, "free_texts", lambda *_, **__: ["a caf\u00e9", "old old"])
    scores = GenerationScores([asked, silent_one], ["old"], seed=0)
    first, second = scores.add(None, [asked, silent_one], [Measures()] * 2, silent)
    known = ReferenceScore(["old", "the cafe there"])
    assert scores.count == 1
    assert first.reference_score == pytest.approx(known(["a cafe old old"], ["the cafe there"]))
    assert first.reference_score != pytest.approx(0)
    assert second == Measures()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", fail)
    with pytest.raises(MissingExtra, match=r"the chart needs matplotlib: pip install 'memit-serv"):
        need("matplotlib.figure", "the chart")


def test_held_out_text_agrees_with_the_control_text(any_editor: Editor) -> None:
    base, edited = any_editor.base, any_editor.base
    path = edited.structure.projections[1]
    weight = edited.view.get_submodule(path).weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    set_weight(edited.view, path, weight + 0.05 * noise)
    text = TEXT[:1_500]  # both take all of it: fewer tokens than either's limit
    assert len(text) < CONTROL_CHARS
    held_out = HeldOutText(base, text)
    control = ControlText(base, text).drift(edited)
    before, after = held_out.score(base), held_out.score(edited)
    assert before.kl == pytest.approx(0, abs=1e-6)
    assert after.perplexity / before.perplexity == pytest.approx(control.perplexity_ratio, rel=1e-3)
    assert after.kl == pytest.approx(control.kl, rel=1e-3)
    assert after.kl > 1e-3
    assert after.perplexity > 1


def test_perplexity_by_one_plain_forward(any_editor: Editor) -> None:
    base = any_editor.base
    score = HeldOutText(base, "The boy ran away.").score(base)
    ids = base.tokenizer("The boy ran away.\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_p = base.view(ids).logits[0].double().log_softmax(-1)
    nll = -sum(float(log_p[i, int(ids[0, i + 1])]) for i in range(ids.shape[1] - 1))
    assert score.perplexity == pytest.approx(math.exp(nll / (ids.shape[1] - 1)), rel=1e-4)
