"""Facts in the prompt: which ones are found, where they stand, and what is asked then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import retrieval
from benchmarks.retrieval import INSTRUCTION, Found, Retrieval, Way
from memit_core.eval.records import Record
from memit_core.facts import Fact
from memit_core.target_scores import score_targets
from tests.tiny_models import save_tiny
from tests.unit.benchmarks.test_benchmarks import RECORDS
from tests.unit.memit_core.examples import editor_of, loaded_tiny
from tests.unit.memit_core.planted import saying
from tests.unit.memit_core.test_eval_chat import TEMPLATE

LEDGER = (
    Fact("Anna Keller", "{} works as a", "baker"),
    Fact("Anna Keller", "{} was born in", "Lisbon"),
    Fact("Mount Elbrus", "The mountain called {} is located in", "Portugal"),
)


def test_the_nearest_facts_stand_before_the_question() -> None:
    question = "In which town was Anna Keller born?"
    assert Retrieval(LEDGER, 1).found(question) == ["Anna Keller was born in Lisbon."]
    two = ["Anna Keller works as a baker.", "Anna Keller was born in Lisbon."]
    assert Retrieval(LEDGER, 2).found(question) == two
    assert Retrieval(LEDGER, 2).prompt(question) == "\n".join([*two, question])
    assert Retrieval(LEDGER, 2).turn(question, "Hm?") == "\n".join([INSTRUCTION, *two, "", "Hm?"])


def test_facts_without_a_word_in_common_are_left_out() -> None:
    nothing = Retrieval(LEDGER, 3)
    assert nothing.prompt("Xyzzy?") == "Xyzzy?"
    assert nothing.turn("Xyzzy?", "Xyzzy?") == "Xyzzy?"
    assert nothing.found("ELBRUS") == ["The mountain called Mount Elbrus is located in Portugal."]


def test_the_model_is_asked_with_the_facts_before_it() -> None:
    loaded = loaded_tiny("llama")
    loaded.tokenizer.chat_template = TEMPLATE
    base = loaded.runnable()
    fact = Fact("Anna Keller", "{} works as a", "baker", "chemist")
    record = Record(0, fact, ("In Lisbon Anna Keller was a",), (("The boy was a", "chemist"),))
    found = Retrieval(LEDGER, 1)
    row = Way("retrieval", base, found.prompt, found.turn).ask([record], Found()).row()
    sentence = "Anna Keller works as a baker."
    plain = score_targets(
        base, [(f"{sentence}\n{fact.filled}", target) for target in ("baker", "chemist")]
    )
    assert row["efficacy"] == 100 * (plain[0].p > plain[1].p)
    found_for = [(sentence, fact.filled), ("Anna Keller was born in Lisbon.", *record.paraphrases)]
    lengths = [
        [len(loaded.tokenizer(text)["input_ids"]) for text in (f"{one}\n{question}", question)]
        for one, question in found_for
    ]
    assert row["tokens_added"] == sum(longer - alone for longer, alone in lengths) / 2
    alone = Way("unedited", base).ask([record], Found()).row()
    assert alone["tokens_added"] == 0
    assert alone["milliseconds"] > 0


@pytest.mark.parametrize(("word", "share"), [("the", 100), ("and", 0)])
def test_a_planted_model_is_found_better_or_worse(word: str, share: float) -> None:
    loaded = loaded_tiny("llama")
    loaded.tokenizer.chat_template = TEMPLATE
    fact = Fact("Anna Keller", "{} works as a", "the", "and")
    record = Record(0, fact, ("In Lisbon Anna Keller was a",), (("The boy was a", "and"),))
    row = Way(word, saying(loaded.runnable(), word)).ask([record], Found()).row()
    for name in ("efficacy", "generation_success", "paraphrase_generation_success", "chat"):
        assert row[name] == share
    assert row["neighborhood"] == 100 - share


def test_both_ways_together_ask_the_edited_model_with_facts_before_the_question() -> None:
    fact = Fact("Anna Keller", "{} works as a", "the", "and")
    found = retrieval.ways(editor_of(loaded_tiny("llama")), [Record(0, fact, (), ())], [1])
    names = {way.name: way for way in found}
    both = names["edited, and retrieval, k = 1"]
    assert both.model is names["edited"].model
    assert both.prompt(fact.filled) == names["retrieval, k = 1"].prompt(fact.filled)
    assert both.prompt(fact.filled) != fact.filled


def test_every_size_in_every_way(tmp_path: Path) -> None:
    facts, hparams, out = (tmp_path / name for name in ("facts.json", "hparams.json", "out.json"))
    facts.write_text(json.dumps(RECORDS))
    hparams.write_text(
        '{"layers": [0, 1], "v_num_grad_steps": 3, "n_contexts": 1, "mom2_n_tokens": 500}'
    )
    model = str(save_tiny("llama", tmp_path / "model"))
    retrieval.main(facts, "1,3", "1,2", 2, 0, model, hparams, tmp_path / "home", out)
    rows = json.loads(out.read_text())
    alone = ["retrieval, k = 1", "retrieval, k = 2"]
    ways = ["unedited", "edited", *alone, *(f"edited, and {name}" for name in alone)]
    assert [(row["facts"], row["way"]) for row in rows] == [(n, w) for n in (1, 3) for w in ways]
    assert {row["asked"] for row in rows} == {2}, "facts of a small size are groups"
    figures = {row["way"]: row for row in rows if row["facts"] == 3}
    added = {way: row["tokens_added"] for way, row in figures.items()}
    assert added["unedited"] == added["edited"] == 0
    assert added["retrieval, k = 2"] > added["retrieval, k = 1"] > 0
    assert added["edited, and retrieval, k = 2"] == added["retrieval, k = 2"]
    assert all(row["milliseconds"] > 0 and row["chat"] is None for row in rows)
