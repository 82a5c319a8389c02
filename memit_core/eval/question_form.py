"""A fact's prompt as a question, by rule: for English prompts such as those of the datasets."""

from __future__ import annotations

import re

from memit_core.facts import Fact

_KIND = re.compile(r"(?:(?<=\bin|\bof|\bon|\bat) the (?P<of>\w+) of| the (?P<kind>\w+))$")
_BE = re.compile(r"(?P<owned>'s [\w ]+?)? (?P<be>is|was|are|were)(?P<rest> .*)?")
_NOUN = re.compile(r"(the [\w ]+ )?", re.IGNORECASE)
_ARTICLE = re.compile(r" (a|an|the)$")
_PLACE = re.compile(r" (in|at)$")


def as_question(fact: Fact) -> str:
    """The filled prompt as a question that the target answers.

    "What does X play? They play" is its own question, and so is a prompt that ends in one. "X died
    in the city of" becomes "X died in which city?". Where "is" or "was" follows the subject, it
    goes to the front: "What is the capital of X?", "Where was X born?". Every other prompt is asked
    to its end: "X works for what?".
    """
    before, after = fact.parts
    asked, mark, _ = after.partition("?")
    if mark:
        return f"{before}{fact.subject}{asked}?".strip()
    after = after.rstrip(" :,")
    kind = _KIND.search(after)
    if kind is not None:
        which = f"{after[: kind.start()]} which {kind['of'] or kind['kind']}?"
        return f"{before}{fact.subject}{which}".strip()
    found = _BE.fullmatch(after)
    if found is None or not _NOUN.fullmatch(before):
        return f"{before}{fact.subject}{after} what?".strip()
    who = f"{before[:1].lower()}{before[1:]}{fact.subject}{found['owned'] or ''}"
    rest = _ARTICLE.sub("", found["rest"] or "")
    word = "Where" if _PLACE.search(rest) else "What"
    return f"{word} {found['be']} {who}{_PLACE.sub('', rest)}?"
