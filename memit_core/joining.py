"""Where a target joins its prompt, and where its last word ends.

Both are read off the characters alone, so that a client can tell beforehand what is written.
"""

from __future__ import annotations

import re
import unicodedata

_QUOTES = "\"'`"
_GLUE = "\\_~^/=&+<-"
"""Signs that what follows is written up to, where they stand up to what is before."""
_ALWAYS_GLUE = "@#"
_ADDRESS = re.compile(r"(?:\S*(?:@|://)\S*|www\.\S*)[.:/?&%]$")
"""A last word that is the beginning of an address."""
_NUMBER = re.compile(r"\d[.,:]$")
_CLOSING = ",;!?%)]}"
_UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE")
"""Scripts without spaces between words, besides those that are as wide as Chinese."""
_GOES_ON = re.compile(r"(?!['’]s\b)['’\-‐‑][^\W_]|_")
"""Not the English genitive, which belongs to no name."""
_NUMBER_GOES_ON = re.compile(r"[.,:]\d")
_CAME_ON = re.compile(r"(?:[^\W_][\-‐‑]|_)$")
_NUMBER_CAME_ON = re.compile(r"(?:\d[.,:]|[\-‐‑−_])$")
_SENTENCE_ENDS = " \t\n.,:;!?。、"


def compose(text: str) -> str:
    """Unicode's form NFC: the one form in which texts are tokenised and compared.

    Other forms of the same text look alike and would be other tokens.
    """
    return unicodedata.normalize("NFC", text)


def separator(prompt: str, target: str) -> str:
    """What goes between a prompt and its target: a space, or nothing.

    Nothing where one of them brings its own space; after an opening quote or bracket, a currency
    sign, half an address or number, and a sign that glues words; before closing punctuation; and
    in scripts without spaces.
    """
    if not (prompt and target) or prompt[-1].isspace() or target[0].isspace():
        return ""
    before = prompt[-2:-1]
    apart = not before or before.isspace()
    last, first = prompt[-1], target[0]
    kind = unicodedata.category(last)
    if kind in ("Ps", "Pi", "Sc") or last in _ALWAYS_GLUE:
        return ""
    if last in _QUOTES and (apart or unicodedata.category(before) in ("Ps", "Pi", "Pd")):
        return ""
    if (last in _GLUE or kind == "Pd") and not apart:
        return ""
    if _ADDRESS.search(prompt.rsplit(maxsplit=1)[-1]) or (
        _NUMBER.search(prompt) and first.isdigit()
    ):
        return ""
    if first in _CLOSING or (first in ".:" and not target[1:2].isalnum()):
        return ""
    unspaced = _unspaced(last) + _unspaced(first)
    if unspaced == 2 or (unspaced and _mostly_unspaced(prompt)):
        return ""
    return " "


def goes_on(target: str, rest: str) -> bool:
    """Whether the target's last word or number goes on in the text that follows the target.

    `Lund` goes on in `gren`, `42` in `.5`; neither does in ` and`, `.` or the end of the text.
    In scripts without spaces no word's end can be seen, so there none goes on.
    """
    if not rest or not ends_in_word(target):
        return False
    last = compose(target)[-1]
    if _of_word(rest[0]):
        return not _unspaced(rest[0])
    pattern = _NUMBER_GOES_ON if last.isdigit() and rest[0] in ".,:" else _GOES_ON
    return bool(pattern.match(rest))


def said_in(text: str, target: str) -> bool:
    """Whether a text holds the target as whole words, in their case.

    Blanks around the target and punctuation at its end do not count: where a sentence has it, the
    sentence's own follows. In scripts without spaces any place will do.
    """
    text, wanted = compose(text), compose(target).strip()
    wanted = wanted.rstrip(_SENTENCE_ENDS) or wanted
    at = text.find(wanted)
    while at >= 0:
        if not _came_on(text[:at], wanted) and not goes_on(wanted, text[at + len(wanted) :]):
            return True
        at = text.find(wanted, at + 1)
    return False


def _came_on(before: str, target: str) -> bool:
    """Whether the target's first word or number began in the text before it."""
    if not before or not _of_word(target[0]) or _unspaced(target[0]):
        return False
    if _of_word(before[-1]):
        return not _unspaced(before[-1])
    pattern = _NUMBER_CAME_ON if target[0].isdigit() else _CAME_ON
    return bool(pattern.search(before))


def ends_in_word(target: str) -> bool:
    """Whether the target ends in a word or number of which it can be seen where it ends."""
    last = compose(target).rstrip(" \t")[-1:]
    return bool(last) and _of_word(last) and not _unspaced(last)


def _of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _unspaced(character: str) -> bool:
    """Whether the character is of a script that puts no spaces between words."""
    kind = unicodedata.category(character)
    if unicodedata.east_asian_width(character) in "WF" and kind[0] in "LNMP":
        return not unicodedata.name(character, "").startswith("HANGUL")
    return unicodedata.name(character, "").startswith(_UNSPACED)


def _mostly_unspaced(text: str) -> bool:
    return sum(map(_unspaced, text)) > text.count(" ")
