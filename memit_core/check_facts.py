"""What a model's tokenizer makes of a fact, held against what the model can take."""

from __future__ import annotations

from collections.abc import Iterable

from memit_core.errors import InvalidFact
from memit_core.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.tokens import encode_text, target_row


def check_written(loaded: LoadedModel, fact: Fact, max_tokens: int | None) -> None:
    """Refuse a fact that cannot be written.

    Args:
        max_tokens: most tokens of prompt and target together.

    Raises:
        InvalidFact: a text has no token, too many, or one that the model has no embedding for.
    """
    row = target_row(loaded.tokenizer, fact, max_tokens=max_tokens)
    _check_known(loaded, fact, "prompt", row.ids[: row.target_positions[0] + 1])
    _check_known(loaded, fact, "target_new", row.targets)


def check_measured(loaded: LoadedModel, fact: Fact, max_tokens: int | None) -> None:
    """Refuse a fact that cannot be measured; weights do not depend on it.

    Args:
        max_tokens: most tokens of each measuring prompt.

    Raises:
        InvalidFact: as `check_written`.
    """
    for name, prompts in (
        ("paraphrase_prompts", fact.paraphrase_prompts),
        ("neighborhood_prompts", fact.neighborhood_prompts),
    ):
        for i, prompt in enumerate(prompts):
            ids, _ = encode_text(loaded.tokenizer, prompt)
            field = f"{name}/{i}"
            if not ids:
                raise InvalidFact("tokenises to nothing", subject=fact.subject, field=field)
            if max_tokens is not None and len(ids) > max_tokens:
                raise InvalidFact(
                    f"is {len(ids)} tokens, at most {max_tokens}",
                    subject=fact.subject,
                    field=field,
                    limit=max_tokens,
                )
            _check_known(loaded, fact, field, ids)


def _check_known(loaded: LoadedModel, fact: Fact, field: str, ids: Iterable[int]) -> None:
    unknown = [loaded.unknown_tokens[i] for i in ids if i in loaded.unknown_tokens]
    if unknown:
        raise InvalidFact(
            f"holds the token {unknown[0]!r}, which the model has no embedding for",
            subject=fact.subject,
            field=field,
        )
