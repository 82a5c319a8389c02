"""A tiny model with a chat template, and what it says to texts that are rendered by hand."""

from __future__ import annotations

from memit_core.loading import LoadedModel, adopt_model
from memit_core.progress import silent
from tests.device import DEVICE
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.unit.worker.workshop import Workshop
from worker.answers import BASE, EDITED, Answers, Question
from worker.deltas import Deltas

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.content == 'Refuse.' %}{{ raise_exception('it is refused') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def chat(*contents: str) -> list[dict[str, str]]:
    """Turns of user and assistant by turns, the last one the user's."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": one} for i, one in enumerate(contents)]


def loaded_with(template: str | None) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return adopt_model(tiny_model("llama").to(DEVICE), tokenizer, name="llama")


def answers(workshop: Workshop, version: str, *asked: tuple[str, int]) -> list[tuple[str, str]]:
    """What a version and the base say to texts, for so many tokens."""
    deltas = Deltas(workshop.registry.blobs)
    weights = workshop.registry.versions.get(version).weights
    model = workshop.editor.model_with({one.module: deltas.read(one.blob) for one in weights})
    served = {one.module: model.view.get_submodule(one.module).weight for one in weights}
    questions = [
        Question(text, which, tokens) for text, tokens in asked for which in (EDITED, BASE)
    ]
    said = iter(Answers(workshop.editor.loaded, 512).ask(served, questions, silent))
    return [(one.text, other.text) for one, other in zip(said, said, strict=True)]
