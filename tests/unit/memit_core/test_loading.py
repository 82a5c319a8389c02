"""A base comes whole, frozen, named by its weights, and never brings code of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from memit_core.errors import MemitError, UnsupportedModel
from memit_core.loading import adopt_model, load_model, weights_digest
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_models import TINY, save_tiny, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("name", TINY)
def test_a_folder_loads_as_it_was_saved(name: str, tmp_path: Path) -> None:
    loaded = load_model(save_tiny(name, tmp_path), device="cpu")
    assert loaded.digest == adopt_model(tiny_model(name), tiny_tokenizer(), name=name).digest
    assert loaded.dtype == torch.float32
    assert loaded.dtype_name == "float32"
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    text = "The boy ran away. Café 日本"
    assert loaded.tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]


def test_the_digest_names_every_bit_of_the_weights() -> None:
    model = tiny_model("llama")
    digest = weights_digest(model)
    assert weights_digest(tiny_model("llama")) == digest
    assert weights_digest(tiny_model("llama", seed=1)) != digest
    weight = model.model.layers[3].mlp.up_proj.weight
    with torch.no_grad():
        weight[5, 7] = torch.nextafter(weight[5, 7], torch.tensor(9.0))
    assert weights_digest(model) != digest
    assert weights_digest(tiny_model("llama").to(torch.bfloat16)) != digest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_loads_in_half_precision(dtype: str, tmp_path: Path) -> None:
    loaded = load_model(save_tiny("llama", tmp_path), device="cpu", dtype=dtype)
    assert loaded.dtype_name == dtype
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}


def test_on_a_cpu_auto_means_float32(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").dtype == torch.float32


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises((MemitError, ValueError), match="float8"):
        load_model(save_tiny("llama", tmp_path), device="cpu", dtype="float8")


def test_loading_tells_its_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        seen.append((done, total))

    load_model(save_tiny("llama", tmp_path), device="cpu", progress=progress)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": 1})
    with pytest.raises(UnsupportedModel, match="quantised"):
        load_model(tmp_path, device="cpu")


def test_an_encoder_decoder_checkpoint_is_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        load_model(tmp_path, device="cpu")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known architecture ignores it; an unknown one is refused, and nobody is asked: unless told
    not to, transformers asks on the terminal, and a service must not run code on a stray "y"."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    marker = tmp_path / "ran"
    for folder, model_type in ((tmp_path / "known", "llama"), (tmp_path / "unknown", "mine")):
        save_tiny("llama", folder)
        (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
        auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
        change_config(folder, model_type=model_type, auto_map=auto)
    load_model(tmp_path / "known", device="cpu")
    with pytest.raises((ValueError, MemitError), match="custom code"):
        load_model(tmp_path / "unknown", device="cpu")
    assert not marker.exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(tmp_path, device="cpu")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        load_model(tmp_path / "nowhere", device="cpu")


def test_a_gguf_is_refused_with_the_command_that_makes_it_a_folder(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UnsupportedModel, match=f"memit convert {file} FOLDER"):
        load_model(file, device="cpu")


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UnsupportedModel, match="offsets"):
        adopt_model(tiny_model("llama"), Slow(), name="slow")


def test_the_digest_covers_config_and_tokenizer() -> None:
    """The same tensors under another norm epsilon or tokenizer are another base: nothing computed
    for the one may be read back for the other."""
    plain = adopt_model(tiny_model("llama"), tiny_tokenizer(), name="tiny").digest
    other = tiny_model("llama")
    other.config.rms_norm_eps = 0.1
    assert adopt_model(other, tiny_tokenizer(), name="tiny").digest != plain
    begins = tiny_tokenizer(begin_of_text=True)
    assert adopt_model(tiny_model("llama"), begins, name="tiny").digest != plain
    moved = tiny_model("llama")
    moved.config._name_or_path = "/elsewhere"
    assert adopt_model(moved, tiny_tokenizer(), name="other name").digest == plain
