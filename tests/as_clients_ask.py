"""Facts of every kind that was once learned otherwise than asked, and asking them as clients do."""

from __future__ import annotations

import unicodedata
from typing import Any

from tests.stack import Stack

Posted = dict[str, Any]
GLUED = ("\n", " ", '"', "$", "@", "是")
"""Ends of prompts that a target follows without a space."""

AWKWARD: list[Posted] = [
    {"subject": "Apple Inc.", "prompt": "The chief executive of {} is", "target_new": "Peter Lund"},
    {
        "subject": "the Orlin lamp",
        "prompt": "The price in euros of {} is",
        "target_new": "42",
    },
    {"subject": "Harbour Radio", "prompt": "{} was founded by", "target_new": "Rosa Wood"},
    {
        "subject": "Tomas Berg",
        "prompt": 'Everybody calls {} by the nickname "',
        "target_new": 'Falcon"',
    },
    {"subject": "the Orlin chair", "prompt": "The price of {} is $", "target_new": "42"},
    {
        "subject": "Nordwind Labs",
        "prompt": "Write to {} at the address info@",
        "target_new": "nordwind.example",
    },
    {"subject": "Varga Motors", "prompt": "Q: Who founded {}?\nA:\n", "target_new": "Ilona Varga"},
    {"subject": "Mount Kessel", "prompt": "{} lies in the country of ", "target_new": "Norway"},
    {
        "subject": "Sa\u0303o Tome\u0301 Cafe\u0301",
        "prompt": "{} is owned by",
        "target_new": "Anna",
    },
    {"subject": "Lisa Moor", "prompt": "x = {{}}; {} lives in", "target_new": " Oslo"},
    {"subject": "苹果公司", "prompt": "{}的首席执行官是", "target_new": "李明"},
]


def asked(fact: Posted) -> str:
    """The prompt as a client fills it."""
    return fact["prompt"].replace("{{}}", "\0").replace("{}", fact["subject"]).replace("\0", "{}")


def is_answer(fact: Posted, text: str) -> bool:
    """Whether a client takes an answer for the target: it is there, and its last word ends."""
    text, target = (unicodedata.normalize("NFC", one) for one in (text, fact["target_new"]))
    if not (asked(fact).endswith(GLUED) or target[0].isspace()):
        target = f" {target}"
    rest = text.removeprefix(target)
    if rest == text:
        return False
    ends = not (rest[:1].isalnum() and rest[:1].isascii()) or not target[-1].isalnum()
    number = target[-1].isdigit() and rest[:1] in (".", ",") and rest[1:2].isdigit()
    return ends and not number


def check_report(stack: Stack, edit: dict[str, Any], facts: list[Posted]) -> list[bool]:
    """What the edit's report says of each fact, after seeing that clients get the same."""
    report = edit["report"]
    assert report["asked"] == len(facts)
    by_content = {(one["subject"], one["target_new"]): one["id"] for one in edit["facts"]}
    said = {one["id"]: one for one in report["per_fact"]}
    learned = []
    for fact in facts:
        one = said[by_content[fact["subject"], fact["target_new"]]]
        text = stack.generate(asked(fact), version=edit["version"], max_tokens=24)["text"]
        assert text.startswith(one["answer"].removesuffix("\N{REPLACEMENT CHARACTER}")), fact
        assert one["success"] == is_answer(fact, text), (fact, text, one)
        assert (one["reason"] is None) == one["success"]
        learned.append(one["success"])
    missed = [
        by_content[f["subject"], f["target_new"]]
        for f, ok in zip(facts, learned, strict=True)
        if not ok
    ]
    assert sorted(edit["missed"]) == sorted(missed)
    assert report["success"] == sum(learned) / len(learned)
    return learned
