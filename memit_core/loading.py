"""Load a causal language model whole onto one device, ready to be edited, and name its weights."""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from memit_core.convert import is_gguf
from memit_core.default_model import DEFAULT_MODEL, default_model_path
from memit_core.discover import discover
from memit_core.errors import UnsupportedModel
from memit_core.joined import join
from memit_core.model import Model
from memit_core.packed import pack
from memit_core.progress import ProgressCallback, silent
from memit_core.structure import Structure
from memit_core.transformers_internals import is_quantised, warn_if_untested
from memit_core.views import view_of

log = logging.getLogger(__name__)

QUANTISED = "quantised weights cannot be edited; load the plain model"
NO_CODE = {"trust_remote_code": False}
"""Said aloud: left out, transformers would ask on the terminal whether to run a model's code."""
SHOWN_TOKENS = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A pristine base model: in eval mode, without gradients, and never run or changed itself.

    Everything that runs is a view of it; see `runnable`.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def structure(self) -> Structure:
        """Where its parts are.

        Raises:
            UnsupportedModel: says what was not found.
        """
        return discover(self.model)

    def runnable(self) -> Model:
        """The model as one to run: a new view, so that nobody else sees what is done to it."""
        return Model(view_of(self.model), self.structure, self.tokenizer)

    @cached_property
    def unknown_tokens(self) -> dict[int, str]:
        """Tokens of the tokenizer that the model has no embedding for, by id.

        They come of tokens that were added without enlarging the model's table. A text that holds
        one cannot be run.
        """
        rows = self.model.get_input_embeddings().weight.shape[0]
        return {i: token for token, i in self.tokenizer.get_vocab().items() if i >= rows}


def pick_device(device: str = "auto") -> torch.device:
    """The device by name; "auto" takes CUDA, else MPS, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: ProgressCallback = silent,
) -> LoadedModel:
    """Load a Hugging Face causal model by folder or hub name; never runs code from the model.

    Args:
        source: folder, hub name, or the default model's name.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "float32", "bfloat16", "float16", or "auto": float32 on the CPU, elsewhere as stored.

    Raises:
        UnsupportedModel: it is quantised, offloaded, spread over devices, no decoder, or a GGUF
            file.
        ValueError: the dtype is unknown, or the model needs code of its own.
        OSError: there is no such model, or it has no safetensors.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; known are auto, {', '.join(DTYPES)}")
    path = default_model_path(progress) if str(source) == DEFAULT_MODEL else Path(source)
    if path.is_file() and is_gguf(path):
        raise UnsupportedModel(f"{source}: is a GGUF file; first: memit convert {source} FOLDER")
    found = str(path) if path.exists() else str(source)
    place = pick_device(device)
    config = AutoConfig.from_pretrained(found, **NO_CODE)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{source}: an encoder-decoder model; MEMIT edits decoders only")
    if is_quantised(config):
        raise UnsupportedModel(f"{source}: {QUANTISED}")
    wanted: torch.dtype | str = DTYPES.get(dtype, "auto")
    if dtype == "auto" and place.type == "cpu":
        wanted = torch.float32
    progress("load model", 0, 2)
    model = AutoModelForCausalLM.from_pretrained(
        found, dtype=wanted, use_safetensors=True, **NO_CODE
    )
    tokenizer = AutoTokenizer.from_pretrained(found, **NO_CODE)
    progress("load model", 1, 2)
    loaded = adopt_model(model.to(place), tokenizer, name=str(source))
    progress("load model", 2, 2)
    return loaded


def adopt_model(model: Any, tokenizer: Any, *, name: str) -> LoadedModel:
    """Take a model that is already in memory as a base: check it, freeze it, digest its weights.

    Raises:
        UnsupportedModel: see `check_editable`; or the tokenizer gives no character offsets.
    """
    warn_if_untested()
    check_editable(model, name)
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"{name}: its tokenizer is a slow one without character offsets; "
            "the subject's last token cannot be found reliably"
        )
    model.eval()
    model.requires_grad_(False)
    if pack(model):
        join(model)
    first = next(model.parameters())
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        digest=base_digest(model, tokenizer),
        device=first.device,
        dtype=first.dtype,
    )
    if loaded.unknown_tokens:
        log.warning(
            "%s has no embedding for %d tokens of its tokenizer (%s): texts that hold one are "
            "refused; model.resize_token_embeddings(%d) would make them",
            name,
            len(loaded.unknown_tokens),
            ", ".join(map(repr, list(loaded.unknown_tokens.values())[:SHOWN_TOKENS])),
            len(tokenizer),
        )
    return loaded


def check_editable(model: Any, name: str) -> None:
    """Refuse what MEMIT cannot edit here.

    Raises:
        UnsupportedModel: quantised, offloaded or multi-device weights, or an encoder-decoder.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name}: an encoder-decoder model; MEMIT edits decoders only")
    if is_quantised(model):
        raise UnsupportedModel(f"{name}: {QUANTISED}")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    strange = [n for n, p in model.named_parameters() if not p.is_floating_point()]
    if strange:
        raise UnsupportedModel(f"{name}: {strange[0]} is not a floating-point tensor (quantised?)")
    if any(p.is_meta for _, p in tensors):
        raise UnsupportedModel(f"{name}: some weights are offloaded; load it whole on one device")
    devices = sorted({str(p.device) for _, p in tensors})
    if len(devices) > 1:
        raise UnsupportedModel(f"{name}: weights lie on several devices ({', '.join(devices)})")


def base_digest(model: Any, tokenizer: Any) -> str:
    """SHA-256 in hex of everything that decides what the base computes from a text.

    That is every tensor's name, dtype, shape and bytes; the config where it differs from its
    class's defaults (a norm's epsilon, a rope's base); and the tokenizer's vocabulary and how it
    cuts a text of several scripts.
    """
    config = model.config.to_diff_dict()
    settings = {name: value for name, value in config.items() if name not in _NOT_COMPUTED_FROM}
    parts = {
        "weights": weights_digest(model),
        "config": settings,
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "tokens": tokenizer(_SCRIPTS)["input_ids"],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


_NOT_COMPUTED_FROM = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
)
_SCRIPTS = "The 3 cafés aren't in Zürich. Москва, القاهرة, 東京, नई दिल्ली; x+=1\n\t😀"


def weights_digest(model: Any) -> str:
    """SHA-256 in hex over every tensor's name, dtype, shape and bytes."""

    def one(item: tuple[str, torch.Tensor]) -> str:
        name, tensor = item
        flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        return hashlib.sha256(head + hashlib.sha256(flat.numpy().data).digest()).hexdigest()

    state = sorted(model.state_dict().items())
    with ThreadPoolExecutor(max_workers=4) as pool:
        return hashlib.sha256("".join(pool.map(one, state)).encode()).hexdigest()
