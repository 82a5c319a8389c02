"""Small tokenizers of every kind that causal language models come with, trained in milliseconds.

Each has what makes its kind awkward: a word mark before the text, offsets with or without the
leading space, characters that are split into bytes, dropped, composed, or unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import TEXT

BEGIN, END, UNKNOWN, PADDING = "<s>", "</s>", "<unk>", "<pad>"
SPECIALS = [UNKNOWN, BEGIN, END, PADDING]
MARK = "▁"
SIZE = 700
# As in Llama 3 and Qwen 2: contractions, words with one leading character, digits by three.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer


def _template(tokenizer: Tokenizer, single: str) -> processors.TemplateProcessing:
    named = [token for token in SPECIALS if token in single]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in named]
    )


def byte_level(
    *, prefix_space: bool, trim_offsets: bool, single: str = "$A", normalizer: str | None = None
) -> PreTrainedTokenizerFast:
    """GPT-2's kind; with `single` as the template that puts special tokens around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return _byte_bpe(tokenizer, trim_offsets, single, normalizer)


def split_byte_level(
    *, single: str = f"{BEGIN} $A", normalizer: str | None = None
) -> PreTrainedTokenizerFast:
    """Llama 3's kind and, with NFC, Qwen 2's: a regular expression splits, then bytes are taken."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _byte_bpe(tokenizer, trim_offsets=False, single=single, normalizer=normalizer)


def _byte_bpe(
    tokenizer: Tokenizer, trim_offsets: bool, single: str, normalizer: str | None
) -> PreTrainedTokenizerFast:
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    _train(tokenizer, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim_offsets), _template(tokenizer, single)]
    )
    return _wrap(tokenizer)


@cache
def _marked_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges over words that begin with the mark; bytes for all other characters."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    _train(
        tokenizer,
        trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIALS, show_progress=False),
    )
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return vocabulary, [(left, right) for left, right in model["merges"]]


def _byte_fallback(strip: int) -> Tokenizer:
    vocabulary, merges = _marked_bpe()
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens(SPECIALS)
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", strip, 0)])
    tokenizer.post_processor = _template(tokenizer, f"{BEGIN} $A")
    return tokenizer


def llama_2() -> PreTrainedTokenizerFast:
    """A mark goes before every text and takes each space's place; the whole text is one word."""
    tokenizer = _byte_fallback(strip=1)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    return _wrap(tokenizer)


def mistral() -> PreTrainedTokenizerFast:
    """As Llama 2's, but by a pre-tokenizer, which marks the first word only."""
    tokenizer = _byte_fallback(strip=1)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _wrap(tokenizer)


def gemma() -> PreTrainedTokenizerFast:
    """No mark before the text."""
    tokenizer = _byte_fallback(strip=0)
    tokenizer.normalizer = normalizers.Replace(" ", MARK)
    return _wrap(tokenizer)


def unigram(*, single: str = f"$A {END}") -> PreTrainedTokenizerFast:
    """T5's and ALBERT's kind: NFKC, runs of spaces become one, what is unknown stays unknown."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIALS, unk_token=UNKNOWN, show_progress=False
    )
    _train(tokenizer, trainer)
    tokenizer.post_processor = _template(tokenizer, single)
    return _wrap(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    """Bert's kind: lower case without accents, spaces belong to no token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=SPECIALS, show_progress=False
    )
    _train(tokenizer, trainer)
    tokenizer.post_processor = _template(tokenizer, f"{BEGIN} $A {END}")
    return _wrap(tokenizer)


BUILDERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": lambda: byte_level(prefix_space=False, trim_offsets=False),
    "gpt2 trimmed": lambda: byte_level(prefix_space=False, trim_offsets=True),
    "gpt2 prefix space": lambda: byte_level(prefix_space=True, trim_offsets=False),
    "gpt2 prefix space trimmed": lambda: byte_level(prefix_space=True, trim_offsets=True),
    "opt": lambda: byte_level(prefix_space=False, trim_offsets=True, single=f"{BEGIN} $A"),
    "closing": lambda: byte_level(prefix_space=False, trim_offsets=False, single=f"$A {END}"),
    "llama 3": split_byte_level,
    "qwen": lambda: split_byte_level(single="$A", normalizer="NFC"),
    "nfkc": lambda: split_byte_level(single="$A", normalizer="NFKC"),
    "nfd": lambda: split_byte_level(single="$A", normalizer="NFD"),
    "llama 2": llama_2,
    "mistral": mistral,
    "gemma": gemma,
    "unigram": unigram,
    "word piece": word_piece,
}
LOSSLESS = ("gpt2", "gpt2 trimmed", "opt", "closing", "llama 3", "llama 2", "mistral", "gemma")
"""Those whose decoded ids are the text again, character for character."""


@cache
def tiny_tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a kind; tests that change one build their own by `BUILDERS`."""
    return BUILDERS[kind]()
