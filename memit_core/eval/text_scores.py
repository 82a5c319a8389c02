"""Measures of free text: how varied it is (GE), and how like reference texts (RS)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from memit_core.eval.extras import need

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Weight of the entropy of n-grams, by n."""


def generation_entropy(texts: Sequence[str]) -> float | None:
    """Mean over texts of the mean of (2/3)·H₂ and (4/3)·H₃, in bits; None of no texts.

    Hₙ is the entropy of a text's n-grams of words. The official code takes the mean of the two
    weighted entropies, where the paper's formula takes their sum; this is the former.

    Raises:
        MissingExtra: nltk is not installed.
    """
    if not texts:
        return None
    tokenize = need("nltk.tokenize", "generation entropy").NLTKWordTokenizer().tokenize
    return fmean(text_entropy(tokenize(text)) for text in texts)


def text_entropy(words: Sequence[str]) -> float:
    """The mean of (2/3)·H₂ and (4/3)·H₃ of one text, in bits."""
    return fmean(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items())


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """-Σ f·log₂ f over the relative frequencies f of n-grams; 0 where there are none."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = counts.total()
    return sum(-count / total * math.log2(count / total) for count in counts.values())


class ReferenceScore:
    """Cosine of TF-IDF vectors, with words weighted as they occur in `documents`.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        text = need("sklearn.feature_extraction.text", "the reference score")
        self._vectors: Any = text.TfidfVectorizer().fit(documents)

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """Cosine of all texts joined and all references joined; 0 without a known word in both."""
        joined = [" ".join(texts), " ".join(references)]
        ours, theirs = self._vectors.transform(joined)  # rows of length 1, or 0 without a word
        return float((ours @ theirs.T).sum())
