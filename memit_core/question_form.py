"""A fact's prompt as a question, by rule: for English prompts such as those of the datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from memit_core.facts import LITERAL, SLOT, Fact

_KIND = re.compile(r"(?:(?<=\bin|\bof|\bon|\bat) the (?P<of>\w+) of| the (?P<kind>\w+))$")
_BE = re.compile(r"(?P<owned>'s [\w ]+?)? (?P<be>is|was|are|were)(?P<rest> .*)?")
_NOUN = re.compile(r"(the [\w ]+ )?", re.IGNORECASE)
_ARTICLE = re.compile(r" (a|an|the)$")
_PLACE = re.compile(r" (in|at)$")
_OPENING = re.compile(r"(The|A|An|In|On|At)\b")
ASIDE = "Do you know the answer?"
_ENGLISH = re.compile(
    r"\b(the|of|is|was|are|were|for|from|by|with|who|which|that|they|their|has|had|can)\b"
    r"|\b\w+(ed|s) (in|on|at|as|to)\b|'s\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Question:
    """What stands before a subject and after it, asked directly and indirectly."""

    direct: tuple[str, str]
    indirect: tuple[str, str]


def as_question(fact: Fact) -> Fact:
    """The fact with its prompt as a question that the target answers.

    "What does X play? They play" is its own question, and so is a prompt that ends in one. "X died
    in the city of" becomes "X died in which city?". Where "is" or "was" follows the subject, it
    goes to the front: "What is the capital of X?", "Where was X born?". Every other prompt is asked
    to its end: "X works for what?".
    """
    return _with_parts(fact, _question(fact).direct)


def as_indirect_question(fact: Fact) -> Fact:
    """The same after "Do you know": "Do you know what the capital of X is?"."""
    return _with_parts(fact, _question(fact).indirect)


def as_other_question(fact: Fact) -> Fact | None:
    """`as_question`, where that is another prompt than the fact's own and the rules, which are
    English, apply to it."""
    if not _ENGLISH.search("".join(fact.parts)):
        return None
    question = as_question(fact)
    return None if question.filled == fact.filled else question


def _question(fact: Fact) -> _Question:
    before, after = fact.parts
    asked, mark, _ = after.partition("?")
    if mark or after.startswith(","):
        own = f"{asked}?" if mark else f"{after.rstrip(' :,')} what?"
        return _Question((before, own), (f"{ASIDE} {before.lstrip()}", own))
    after = after.rstrip(" :,")
    noun = f"{before[:1].lower()}{before[1:]}" if _OPENING.match(before) else before
    kind = _KIND.search(after)
    if kind is not None:
        verb, which = after[: kind.start()], kind["of"] or kind["kind"]
        return _Question(
            (before, f"{verb} which {which}?"), (f"Do you know which {which} {noun}", f"{verb}?")
        )
    found = _BE.fullmatch(after)
    if found is None or not _NOUN.fullmatch(before):
        return _Question((before, f"{after} what?"), (f"Do you know what {noun}", f"{after}?"))
    owned, be = found["owned"] or "", found["be"]
    rest = _ARTICLE.sub("", found["rest"] or "")
    word, rest = ("Where" if _PLACE.search(rest) else "What"), _PLACE.sub("", rest)
    return _Question(
        (f"{word} {be} {noun}", f"{owned}{rest}?"),
        (f"Do you know {word.lower()} {noun}", f"{owned} {be}{rest}?"),
    )


def _with_parts(fact: Fact, parts: tuple[str, str]) -> Fact:
    before, after = (part.replace(SLOT, LITERAL) for part in parts)
    return replace(fact, prompt=f"{before.lstrip()}{SLOT}{after.rstrip()}")
