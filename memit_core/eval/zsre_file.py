"""zsRE records in the form of MEND's evaluation set (Mitchell et al. 2022), read as MEMIT does.

`src` is the question with the subject in it, `rephrase` the same question in other words, and
`answers[0]`, the true answer, is what is written; `alt` is not used. `loc` with `loc_ans` is an
unrelated natural question and its answer: a question mark is put after `loc`, whatever it ends in,
and its beginning "nq question: " stays, both as in the official code.
"""

from __future__ import annotations

from memit_core.eval.counterfact_file import checked_fact, slotted
from memit_core.eval.dataset_file import RawRecord
from memit_core.eval.records import Record
from memit_core.eval.references import References


def zsre_record(raw: RawRecord, _references: References) -> Record:
    """The record.

    Raises:
        DatasetError: a field is missing or wrong, or the fact cannot be one.
    """
    subject = raw.text("subject")
    answers = raw.texts("answers")
    if not answers:
        raise raw.error("answers is empty")
    return Record(
        index=raw.index,
        fact=checked_fact(raw, subject, slotted(raw, "src", subject), answers[0]),
        paraphrases=(raw.text("rephrase"),),
        neighbors=((f"{raw.text('loc')}?", raw.text("loc_ans")),),
    )
