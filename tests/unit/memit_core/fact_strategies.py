"""Facts in any script, with what tokenizers find awkward, for property tests."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from memit_core.facts import Fact, parts_of

AWKWARD = st.sampled_from(
    [
        "é",
        "e\u0301",  # composed by NFC
        "x\u0323\u0308",  # two marks on a letter that has no composed form with both
        "日本",
        "한국",
        "\u1112\u1161\u11ab",  # one syllable of three jamo
        "سلام",
        "שָׁלוֹם",
        "हिन्दी",
        "🦊",
        "👩‍👩‍👧",
        "ß",
        "İ",  # two characters in lower case
        "ﬁ",
        "½",
        "{",
        "}",
        "{x}",
        "…",
        ".",
        '"',
        "“",
        "'s",
        "7",
        "2024",
        " ",
        "\u00a0",
        "\u200b",
        "\u200f",
        "\n",
        "A",
        "Anna",
    ]
)
# Without the word mark of SentencePiece, which its tokenizers cannot tell from a space.
_characters = st.characters(exclude_categories=["Cs"], exclude_characters="▁")
text = st.lists(AWKWARD | st.text(_characters, max_size=4), max_size=6).map("".join)
visible = text.filter(lambda s: bool(s.strip()))


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    """A fact whose prompt has exactly one slot; its texts may hold anything else."""
    prompt = draw(text) + "{}" + draw(text)
    assume(len(parts_of(prompt)) == 2)
    return Fact(draw(visible), prompt, draw(visible))
