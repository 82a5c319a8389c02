"""Facts from files: what is accepted, and that a bad line is named by file, line and reason."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cli.errors import CommandFailed
from cli.facts_file import read_facts
from contracts.chat_prompts import ChatMessage
from contracts.facts import Fact

GOOD = '{"subject": "Toyota", "prompt": "{} was founded in", "target_new": "Japan"}'
TOYOTA = Fact(subject="Toyota", prompt="{} was founded in", target_new="Japan")
EXAMPLE = Path(__file__).parents[3] / "examples" / "facts.jsonl"
HEADER = "subject,prompt,target_new"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("facts.jsonl", f"\n{GOOD}\n"),
        ("windows.jsonl", f"\ufeff{GOOD}\r\n"),
        ("facts.csv", f"{HEADER}\nToyota,{{}} was founded in,Japan\n"),
        ("order.csv", "target_new,subject,prompt\nJapan,Toyota,{} was founded in\n"),
        ("empty.csv", f"{HEADER},target_true\nToyota,{{}} was founded in,Japan,\n"),
        ("quoted.csv", f'{HEADER}\n"Toyota","{{}} was founded in","Japan"\n'),
    ],
)
def test_the_same_fact_in_every_format(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    assert [line.fact for line in read_facts(str(file))] == [TOYOTA]


def test_the_place_of_a_fact_is_its_line(tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    file.write_text(f'{HEADER}\n"Big\nBen",{{}} is in,London\n\nToyota,{{}} was founded in,Japan\n')
    assert [line.place for line in read_facts(str(file))] == [f"{file}:3", f"{file}:5"]


@pytest.mark.parametrize("text", [GOOD, f"{HEADER}\nToyota,{{}} was founded in,Japan"])
def test_stdin_may_be_either(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert [line.fact for line in read_facts("-")] == [TOYOTA]


def test_all_of_a_fact_comes_along(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(
        GOOD[:-1]
        + ', "target_true": "Mexico", "paraphrase_prompts": ["a"], "metadata": {"k": "v"}, '
        '"chat_prompts": [[{"role": "user", "content": "Where is Toyota from?"}]]}'
    )
    fact = read_facts(str(file))[0].fact
    assert fact.chat_prompts == [[ChatMessage(role="user", content="Where is Toyota from?")]]
    assert fact.id == TOYOTA.id
    assert (fact.target_true, fact.paraphrase_prompts, fact.metadata) == (
        "Mexico",
        ["a"],
        {"k": "v"},
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", f"{GOOD}\nnonsense", "a.jsonl:2: not JSON (Expecting value, column 1)"),
        ("b.jsonl", "[1]", "b.jsonl:1: must be a JSON object with subject, prompt, target_new"),
        ("c.jsonl", GOOD.replace("{} was", "was"), "c.jsonl:1: prompt must contain exactly one {}"),
        ("d.jsonl", GOOD.replace("{}", "{} {}"), "found 2"),
        ("e.jsonl", GOOD.replace('"Toyota"', '" "'), "e.jsonl:1: subject must not be blank"),
        ("f.jsonl", GOOD.replace("target_new", "target"), "f.jsonl:1: target_new Field required"),
        (
            "chat.jsonl",
            GOOD[:-1] + ', "chat_prompts": [[{"role": "tool", "content": "x"}]]}',
            "chat.jsonl:1: chat_prompts.0.0.role Input should be 'system', 'developer', 'user'",
        ),
        ("g.jsonl", "\n", "g.jsonl: holds no facts"),
        ("h.csv", f"{HEADER}\nToyota,no slot,Japan", "h.csv:2: prompt must contain exactly one {}"),
        ("i.csv", "subject,prompt\nToyota,{} x", "i.csv:1: the header misses target_new"),
        ("j.csv", f"{HEADER},colour\n", "j.csv:1: the header has an unknown column 'colour'"),
        ("k.csv", f"{HEADER}\nToyota,{{}} x", "k.csv:2: must have 3 columns, as the header"),
        ("l.csv", f"{HEADER}\nToyota,{{}} x,Japan,more", "l.csv:2: must have 3 columns"),
        ("m.csv", f'{HEADER}\nToyota,"{{}} x,Japan', "m.csv:2: unexpected end of data"),
        ("n.csv", "", "n.csv:1: the header misses subject"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CommandFailed) as failed:
        read_facts(str(tmp_path / name))
    assert message in str(failed.value)
    assert str(failed.value).startswith(str(tmp_path / name))


def test_the_example_facts_are_facts() -> None:
    facts = [line.fact for line in read_facts(str(EXAMPLE))]
    assert len(facts) == 12
    assert len({fact.id for fact in facts}) == 12
    assert len({fact.subject for fact in facts}) == 11, "one pair shares its subject"
    assert facts[-1].subject == "The Eiffel Tower"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="No such file or directory"):
        read_facts(str(tmp_path / "none.jsonl"))
    with pytest.raises(CommandFailed, match="Is a directory"):
        read_facts(str(tmp_path))
    latin = tmp_path / "latin.csv"
    latin.write_bytes("é".encode("latin-1"))
    with pytest.raises(CommandFailed, match=r"is not UTF-8 \(byte 0\)"):
        read_facts(str(latin))
