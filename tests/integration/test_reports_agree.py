"""What a report says of a fact is what a client gets, with every kind of tokenizer.

A random model learns nothing in so many tokens. So it is taught, gently, what it says already: in
whole words, which count as learned, and without their last letter, which do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.as_clients_ask import AWKWARD, GLUED, Posted, asked, check_report
from tests.stack import CORPUS, Stack
from tests.tiny_models import tiny_model
from tests.tiny_tokenizers import BEGIN, BUILDERS, END

pytestmark = pytest.mark.slow

HPARAMS = """{"layers": [1, 2], "mom2_update_weight": 1e6, "mom2_n_tokens": 2000, "n_contexts": 1,
 "v_num_grad_steps": 3, "v_end_factor": 1}"""
RENDERED = {
    "subject": "Anna Keller",
    "prompt": f"{BEGIN}[user] Who is {{}}?{END}[assistant]\n",
    "target_new": "an engineer",
}
WORD = re.compile(r"\s*[a-zA-Z]{2,}(?![^\W_])")


@pytest.fixture(params=["closing", "llama 3", "llama 2", "opt", "qwen"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    tokenizer = BUILDERS[request.param]()
    model = tiny_model(
        "llama",
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    hparams, corpus = tmp_path / "hparams.json", tmp_path / "corpus.txt"
    hparams.write_text(HPARAMS)
    corpus.write_text(CORPUS)
    stack = Stack(tmp_path / "home", folder, corpus=corpus, hparams=hparams)
    try:
        yield stack.start()
    finally:
        stack.stop()


def test_a_report_says_what_clients_get(stack: Stack) -> None:
    prompts = [*AWKWARD, RENDERED]
    said = [stack.generate(asked(fact), version="v0", max_tokens=16)["text"] for fact in prompts]
    words = [WORD.match(text) for text in said]
    whole = [
        {**fact, "target_new": found[0]}
        for fact, found in zip(prompts, words, strict=True)
        if found is not None and (found[0][0].isspace() or asked(fact).endswith(GLUED))
    ]
    assert len(whole) > 2, said
    cut = [{**fact, "target_new": fact["target_new"][:-1]} for fact in whole]
    assert sum(reported(stack, whole)) > len(whole) / 2
    assert not any(reported(stack, cut))
    reported(stack, prompts)


def reported(stack: Stack, facts: list[Posted]) -> list[bool]:
    body = {"facts": facts, "activate": False, "base": "v0", "gate": {"min_success": 0}}
    edit = stack.wait_edit(stack.post_edit(body)["id"])
    assert edit["state"] == "committed", stack.logs()
    return check_report(stack, edit, facts)
