"""A fact's prompt as a question, by rule: for English prompts such as those of the datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from memit_core.facts import LITERAL, SLOT, Fact
from memit_core.joining import compose

ASIDE = "Do you know the answer?"
_KIND = re.compile(r"(?:(?<=\bin|\bof|\bon|\bat) the (?P<of>\w+) of| the (?P<kind>\w+))$")
_BE = re.compile(r"(?P<owned>['’]s [\w ]+?)? (?P<be>is|was|are|were)(?P<rest> .*)?")
_NOUN = re.compile(r"(the [\w ]+ )?", re.IGNORECASE)
_ARTICLE = re.compile(r" (a|an|the)$")
_PLACE = re.compile(
    r"(?P<done>| born| found| built| held| set| spoken| written| made"
    r"| (?!interested|involved|skilled)\w+ed) (in|at)"
)
_OPENING = re.compile(r"(The|A|An|In|On|At)\b")
_UNPLAIN = re.compile(r"\n|[.!?;:](\s|$)|[^\w\s,:)]$")
"""No single plain clause: several sentences or lines, or an end that the target belongs to."""
_ENGLISH = re.compile(
    r"\b(the|of|was|were|who|which|with|within|from|by|they|their|has|had)\b"
    r"|\b(\w+ed|acts|lives|plays|premieres|serves|specializes|stands|works|writes)"
    r" (in|on|at|as|to|for)\b|['’]s\b",
    re.IGNORECASE,
)
_PERHAPS = re.compile(r"\b(is|are|in|on|at|as|to|for|a|an|that|can|after)\b", re.IGNORECASE)


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
    """`as_question`, where the prompt is one plain English clause and is no question itself.

    Nor has a fact one whose target is a number: what it is a number of, a prompt does not say.
    """
    before, after = map(compose, fact.parts)
    asked, mark, rest = after.partition("?")
    clause = asked if mark else after.rstrip(" :,")
    plain = not _UNPLAIN.search(clause) and not _UNPLAIN.search(before.rstrip())
    ends = rest[:1] in ("", " ") if mark else bool(clause)
    if not (plain and ends and _is_english(f"{before} {after}")):
        return None
    question = as_question(fact)
    same = question.filled.strip() == fact.filled.strip()
    return None if same or fact.target_new.lstrip()[:1].isdigit() else question


def _is_english(text: str) -> bool:
    """Whether it has a word that other languages have not, or two that some have."""
    found = {word.lower() for word in _PERHAPS.findall(text)}
    return len(found) > 1 or _ENGLISH.search(text) is not None


def _question(fact: Fact) -> _Question:
    before, after = map(compose, fact.parts)
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
    word, rest = "What", _ARTICLE.sub("", found["rest"] or "")
    place = _PLACE.fullmatch(rest)
    if place is not None:
        word, rest = "Where", place["done"]
    return _Question(
        (f"{word} {be} {noun}", f"{owned}{rest}?"),
        (f"Do you know {word.lower()} {noun}", f"{owned} {be}{rest}?"),
    )


def _with_parts(fact: Fact, parts: tuple[str, str]) -> Fact:
    before, after = (part.replace(SLOT, LITERAL) for part in parts)
    return replace(fact, prompt=f"{before.lstrip()}{SLOT}{after.rstrip()}")
