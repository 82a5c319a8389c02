"""Facts asked in chats: what is asked, and what counts as said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.eval.benchmark import Options, run
from memit_core.eval.chat import ANSWER_TOKENS, COMPLETE, FORMS, OPENING, ChatScores, user_turns
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.greedy import greedy_answers
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record
from memit_core.eval.report import as_json
from memit_core.facts import Fact
from memit_core.target_scores import score_targets
from tests.unit.memit_core.examples import editor_of, loaded_tiny
from tests.unit.memit_core.planted import saying

TEMPLATE = (
    "{% for message in messages %}"
    "{% if 'Refuse' in message.content %}{{ raise_exception('it is refused') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def chat(said: str) -> str:
    return f"user: {said}\nassistant:"


def record(target: str, index: int = 0, prompt: str = "The capital of {} is") -> Record:
    fact = Fact("Mount Elbrus", prompt, target, "Vienna")
    words = ("Of Mount Elbrus the capital is", "Mount Elbrus has the capital")
    return Record(index, fact, words, (("The river is the", "Seine"),))


@pytest.fixture(scope="module")
def chatting() -> Editor:
    editor = editor_of(loaded_tiny("llama"))
    editor.loaded.tokenizer.chat_template = TEMPLATE
    return editor


def plainly(editor: Editor, prompt: str) -> str:
    """A greedy answer, one token after the other, without padding or cache."""
    tokenizer = editor.loaded.tokenizer
    ids, said = tokenizer(prompt)["input_ids"], list[int]()
    with torch.no_grad():
        while len(said) < ANSWER_TOKENS:
            logits = editor.base.view(torch.tensor([ids + said]), use_cache=False).logits
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == tokenizer.eos_token_id:
                break
    return str(tokenizer.decode(said, skip_special_tokens=True))


def test_answers_are_those_of_each_prompt_alone(editor: Editor) -> None:
    prompts = [chat(said) for said in ("Who?", "Where does the boy live?", "Say: Anna Keller.")]
    answers = greedy_answers(editor.base, prompts, ANSWER_TOKENS)
    assert answers == [plainly(editor, prompt) for prompt in prompts]


def test_an_answer_ends_where_the_model_ends_it(any_editor: Editor) -> None:
    base = any_editor.base
    said = greedy_answers(base, ["The boy"], 4)
    ids = base.tokenizer("The boy")["input_ids"]
    with torch.no_grad():
        first = int(base.view(torch.tensor([ids])).logits[0, -1].argmax())
    base.view.generation_config.eos_token_id = [first]
    assert said != [""]
    assert greedy_answers(base, ["The boy"], 4) == [""]


@pytest.mark.parametrize("form", FORMS[1:])
def test_an_answer_that_holds_the_target_counts(chatting: Editor, form: str) -> None:
    """The target is what the model answers to one of the forms."""
    asked = user_turns(record("x"))[form][0][1]
    target = plainly(chatting, chat(asked)).strip()
    one, other = record(target, 0), record("something that is not said", 1)
    scores = ChatScores([one, other], chatting.loaded.tokenizer)
    said, not_said = scores.add(chatting.base, [one, other], [Measures(), Measures()])
    shares = {name: getattr(said, name) for name in FORMS}
    assert shares[form] == (0.5 if form == "chat_other_words" else 1)
    assert said.chat == pytest.approx(sum(shares.values()) / 4)
    assert [getattr(not_said, name) for name in (*FORMS, "chat")] == [0] * 5


@pytest.mark.parametrize("target", ["the", "the the", "river", "then"])
def test_the_assistants_turn_goes_on_from_the_prompt(chatting: Editor, target: str) -> None:
    scores = ChatScores([record(target)], chatting.loaded.tokenizer)
    (measure,) = scores.add(saying(chatting.base, "the"), [record(target)], [Measures()])
    assert measure.chat_as_posted == (target in ("the", "the the"))
    plain = score_targets(
        chatting.base, [(f"{chat(OPENING)}The capital of Mount Elbrus is", target)], ends=[0]
    )
    (measure,) = scores.add(chatting.base, [record(target)], [Measures()])
    assert measure.chat_as_posted == plain[0].exact


def test_a_model_that_says_it_is_better_than_one_that_does_not(chatting: Editor) -> None:
    records = [record("the", i) for i in range(3)]
    scores = ChatScores(records[:2], chatting.loaded.tokenizer)
    measures = [Measures(efficacy=1.0)] * 3
    better = scores.add(saying(chatting.base, "the"), records, measures)
    worse = scores.add(saying(chatting.base, "and"), records, measures)
    assert [one.chat for one in better] == [1, 1, None]
    assert [one.chat for one in worse] == [0, 0, None]
    assert all(one.efficacy == 1 for one in better)


def test_a_question_is_not_to_be_completed() -> None:
    turns = user_turns(record("x", prompt="Which capital has {}?"))
    assert turns["chat_to_complete"] == []
    asked = "Do you know the answer? Which capital has Mount Elbrus?"
    assert turns["chat_question"] == [(asked, asked)]
    filled = "The capital of Mount Elbrus is"
    assert user_turns(record("x"))["chat_to_complete"] == [(filled, COMPLETE.format(filled))]


def test_every_turn_may_get_more(chatting: Editor) -> None:
    """With the answer in the user's turn the questions are other ones, and are passed on."""
    given = list[str]()

    def turn(question: str, said: str) -> str:
        given.append(question)
        return f"Refuse. {said}" if len(given) > 4 else said

    scores = ChatScores([record("x")], chatting.loaded.tokenizer, turn)
    with pytest.raises(MemitError, match="refuses a user's turn: it is refused"):
        scores.add(chatting.base, [record("x")], [Measures()])
    filled = "The capital of Mount Elbrus is"
    question = "Do you know what the capital of Mount Elbrus is?"
    assert given == [filled, filled, question, *record("x").paraphrases]


def test_the_first_records_of_a_measurement_are_asked(chatting: Editor) -> None:
    records = [record("Lisbon", i) for i in range(3)]
    result = run(chatting, COUNTERFACT, records, Options(chats=2))
    assert result.chats == 2
    assert [one.after.chat is None for one in result.measured] == [False, False, True]
    report = as_json(result, chatting)
    assert (report["chat_records"], report["chat_template"]) == (2, True)
    assert report["after"]["chat"] == pytest.approx(100 * (result.after.values["chat"] or 0))
    none = run(chatting, COUNTERFACT, records, Options(chats=0))
    assert (none.chats, none.after.values["chat"]) == (0, None)


def test_without_a_chat_template_nothing_is_asked(any_editor: Editor) -> None:
    one = replace(record("Lisbon"), index=5)
    result = run(any_editor, COUNTERFACT, [one])
    assert (result.chats, result.after.values["chat"]) == (0, None)
    assert as_json(result, any_editor)["chat_template"] is False
