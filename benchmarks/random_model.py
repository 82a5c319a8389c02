"""A model of a large one's shape with random weights, so that nothing is fetched.

    python -m benchmarks.random_model FOLDER [--shape llama-3-8b] [--device cuda]

writes one that every server can serve: `python -m benchmarks.serving --model FOLDER --dtype
bfloat16`. Its answers mean nothing; what they cost is what a real model's do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTJConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from memit_core.corpus import default_corpus
from memit_core.loading import LoadedModel, adopt_model, pick_device

VOCABULARY = 6_000
END = "<|endoftext|>"
SHAPES: dict[str, PreTrainedConfig] = {
    "gpt-j-6b": GPTJConfig(),
    "llama-3-8b": LlamaConfig(
        vocab_size=128_256,
        intermediate_size=14_336,
        num_key_value_heads=8,
        max_position_embeddings=8_192,
    ),
    "tiny": GPTJConfig(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=10,
        n_head=4,
        rotary_dim=8,
        bos_token_id=0,
        eos_token_id=0,
    ),
}
DTYPE = {"cpu": torch.float32}
"""By device, else bfloat16: many processors need a hundred times as long in that."""


def trained_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the packaged text, so that names and words have a usual length.

    Args:
        size: of the vocabulary. Tokens beyond those of the text are of no text, but have a name:
            a random model says them, and an answer is counted by its pieces of text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, VOCABULARY),
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(default_corpus().splitlines(keepends=True), trainer)
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    vocabulary |= {f"~{i}": i for i in range(len(vocabulary), size)}
    full = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=full, eos_token=END)


def random_model(shape: str, device: torch.device) -> LoadedModel:
    """A model of this shape with random weights on `device`."""
    config = SHAPES[shape]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE.get(device.type, torch.bfloat16))
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(previous)
    tokenizer = trained_tokenizer(config.vocab_size)
    return adopt_model(model.eval(), tokenizer, name=f"random {shape}")


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "llama-3-8b",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
) -> None:
    """Make and write one."""
    made = random_model(shape, pick_device(device))
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
