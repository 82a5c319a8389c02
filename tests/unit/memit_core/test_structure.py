"""The structure is read off the model itself; what cannot be edited is refused with its reason."""

from __future__ import annotations

from typing import Any

import accelerate  # type: ignore[import-untyped]
import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2Model,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from memit_core.discover import discover
from memit_core.errors import UnsupportedModel
from memit_core.loading import LoadedModel, adopt_model
from tests.reference import NAMES
from tests.tiny_models import (
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    VOCABULARY,
    tiny_model,
    tiny_tokenizer,
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_finds_the_published_module_names(loaded: LoadedModel) -> None:
    found = discover(loaded.model)
    names = NAMES[loaded.name]
    assert found.blocks == tuple(names.block.format(i) for i in range(LAYERS))
    assert found.projections == tuple(names.projection.format(i) for i in range(LAYERS))


def test_knows_widths_and_orientation(loaded: LoadedModel) -> None:
    found = discover(loaded.model)
    widths = {"llama_square": HIDDEN, "bloom": 4 * HIDDEN}
    assert found.hidden == HIDDEN
    assert found.intermediate == widths.get(loaded.name, INTERMEDIATE)
    assert found.transposed == (loaded.name == "gpt2")
    weight = loaded.model.get_submodule(found.projections[0]).weight
    expected = (found.hidden, found.intermediate)
    assert tuple(weight.shape) == (expected[::-1] if found.transposed else expected)


def test_a_square_conv1d_is_still_transposed() -> None:
    """Shapes cannot tell the layout of a square matrix; the module's type can."""
    config = tiny_model("gpt2").config
    config.n_inner = HIDDEN
    model = type(tiny_model("gpt2"))(config).eval()
    found = discover(model)
    assert found.transposed
    assert found.hidden == found.intermediate == HIDDEN


def test_discovery_leaves_no_hook_and_no_change(loaded: LoadedModel) -> None:
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    discover(loaded.model)
    for module in loaded.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[key])


MIXTURE: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "num_experts_per_tok": 1}


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (MixtralForCausalLM, MixtralConfig(**MIXTURE, num_local_experts=2)),
        (OlmoeForCausalLM, OlmoeConfig(**MIXTURE, num_experts=2)),
        (Qwen2MoeForCausalLM, Qwen2MoeConfig(**MIXTURE, num_experts=2)),
        # the first block has a plain MLP, only the second a mixture
        (Qwen2MoeForCausalLM, Qwen2MoeConfig(**MIXTURE, num_experts=2, mlp_only_layers=[0])),
    ],
    ids=["mixtral", "olmoe", "qwen2_moe", "qwen2_moe half dense"],
)
def test_a_mixture_of_experts_is_refused(build: Any, config: Any) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"model\.layers\.\d\.mlp\.\S+ is a mixture of experts"
    ):
        discover(build(config).eval())


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (MambaForCausalLM, MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)),
        (RwkvForCausalLM, RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)),
    ],
    ids=["mamba", "rwkv"],
)
def test_a_recurrent_model_is_refused(build: Any, config: Any) -> None:
    """Its blocks have no MLP in the paper's sense: their last linear map is something else."""
    with pytest.raises(UnsupportedModel):
        discover(build(config).eval())


def test_a_bidirectional_model_is_refused() -> None:
    """Its head is found and its blocks are like a decoder's, but the future flows into the past."""
    with pytest.raises(UnsupportedModel):
        discover(BertLMHeadModel(BertConfig(**SIZES)).eval())


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=8, d_ff=INTERMEDIATE, num_layers=2, num_heads=4
    )
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        adopt_model(T5ForConditionalGeneration(config), tiny_tokenizer(), name="t5")


def test_a_model_without_a_head_is_refused() -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=2, n_head=4)
    with pytest.raises(UnsupportedModel, match="head"):
        discover(GPT2Model(config).eval())


def test_quantised_weights_are_refused() -> None:
    model = tiny_model("llama")
    projection = model.get_submodule("model.layers.0.mlp.down_proj")
    projection.weight = torch.nn.Parameter(
        (projection.weight * 100).to(torch.int8), requires_grad=False
    )
    with pytest.raises(UnsupportedModel, match=r"layers\.0\.mlp\.down_proj.*quantised"):
        adopt_model(model, tiny_tokenizer(), name="int8")


def test_offloaded_weights_are_refused() -> None:
    model = accelerate.cpu_offload(tiny_model("llama"), execution_device=torch.device("cpu"))
    with pytest.raises(UnsupportedModel, match="offloaded"):
        adopt_model(model, tiny_tokenizer(), name="offloaded")
