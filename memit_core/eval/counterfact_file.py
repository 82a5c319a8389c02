"""CounterFact records (Meng et al. 2022), in their original form and in the short one.

Original: `requested_rewrite` {prompt with `{}`, subject, target_new.str, target_true.str},
`paraphrase_prompts`, `neighborhood_prompts`, and for generation `generation_prompts` and
`requested_rewrite.relation_id` with `target_new.id`, by which reference texts are found.

Short: `prompt` with the subject filled in, `subject`, `target_new`, `ground_truth`, one
`rephrase_prompt`, and one `locality_prompt` with its `locality_ground_truth`.
"""

from __future__ import annotations

from memit_core.errors import InvalidFact
from memit_core.eval.dataset_file import RawRecord
from memit_core.eval.records import Record
from memit_core.eval.references import References
from memit_core.facts import LITERAL, SLOT, Fact

REWRITE = "requested_rewrite"


def counterfact_record(raw: RawRecord, references: References) -> Record:
    """The record in either form.

    Raises:
        DatasetError: a field is missing or wrong, or the fact cannot be one.
    """
    return _original(raw, references) if REWRITE in raw else _short(raw)


def _original(raw: RawRecord, references: References) -> Record:
    true = raw.text(f"{REWRITE}.target_true.str")
    key = None
    if references:
        key = (raw.text(f"{REWRITE}.relation_id"), raw.text(f"{REWRITE}.target_new.id"))
    own = raw.texts("reference_texts", needed=False)
    return Record(
        index=raw.index,
        fact=checked_fact(
            raw,
            raw.text(f"{REWRITE}.subject"),
            raw.text(f"{REWRITE}.prompt"),
            raw.text(f"{REWRITE}.target_new.str"),
            true,
        ),
        paraphrases=raw.texts("paraphrase_prompts"),
        neighbors=tuple((prompt, true) for prompt in raw.texts("neighborhood_prompts")),
        generation_prompts=raw.texts("generation_prompts", needed=False),
        reference_texts=own or references.get(key, ()),
    )


def _short(raw: RawRecord) -> Record:
    subject = raw.text("subject")
    return Record(
        index=raw.index,
        fact=checked_fact(
            raw,
            subject,
            slotted(raw, "prompt", subject),
            raw.text("target_new"),
            raw.text("ground_truth"),
        ),
        paraphrases=(raw.text("rephrase_prompt"),),
        neighbors=((raw.text("locality_prompt"), raw.text("locality_ground_truth")),),
        generation_prompts=raw.texts("generation_prompts", needed=False),
        reference_texts=raw.texts("reference_texts", needed=False),
    )


def slotted(raw: RawRecord, field: str, subject: str) -> str:
    """The text of `field` with `{}` for the first occurrence of the subject.

    Raises:
        DatasetError: the subject does not occur in it.
    """
    text = raw.text(field)
    if subject not in text:
        raise raw.error(f"{field} does not contain the subject {subject!r}")
    before, _, after = (part.replace(SLOT, LITERAL) for part in text.partition(subject))
    return f"{before}{SLOT}{after}"


def checked_fact(
    raw: RawRecord, subject: str, prompt: str, target_new: str, target_true: str | None = None
) -> Fact:
    """The fact.

    Raises:
        DatasetError: it is none, e.g. the prompt has not exactly one `{}`.
    """
    try:
        return Fact(subject, prompt, target_new, target_true)
    except InvalidFact as error:
        raise raw.error(f"{error.field} {error.reason}") from error
