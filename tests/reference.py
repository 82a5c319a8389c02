"""MEMIT as the paper has it, for tests to compare with: float64, one row at a time, no shortcuts.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, sections 4.2 and 4.3 and appendix B.
Every quantity comes from a plain forward of the whole model over one sequence; module names come
from a table, not from the model; nothing is shared with the package under test.

Some parts of transformers round to float32 also in a float64 model: RMSNorm, some attention
softmaxes, rotary angles, and the whole attention scores of GPT-J and GPT-Neo. "float64" below
therefore means: everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch


class FactLike(Protocol):
    """What the reference reads of a fact."""

    @property
    def subject(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def target_new(self) -> str: ...


@dataclass(frozen=True)
class Names:
    """Where a family keeps its blocks and the matrices that are edited (`{}` is the layer)."""

    block: str
    projection: str
    transposed: bool = False
    norm: str | None = None
    """What stands between the matrix and the residual stream, or behind both."""
    scale: float = 1.0
    """What the matrix' output is multiplied with on its way."""


_LLAMA = Names("model.layers.{}", "model.layers.{}.mlp.down_proj")
_GEMMA = replace(_LLAMA, norm="model.layers.{}.post_feedforward_layernorm")
_OPT = Names("model.decoder.layers.{}", "model.decoder.layers.{}.fc2")
_FALCON = Names("transformer.h.{}", "transformer.h.{}.mlp.dense_4h_to_h")
NAMES = {
    "gpt2": Names("transformer.h.{}", "transformer.h.{}.mlp.c_proj", transposed=True),
    "gptj": Names("transformer.h.{}", "transformer.h.{}.mlp.fc_out"),
    "gpt_neox": Names("gpt_neox.layers.{}", "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
    "gpt_neo": Names("transformer.h.{}", "transformer.h.{}.mlp.c_proj"),
    "opt": _OPT,
    "opt_projected": replace(_OPT, norm="model.decoder.layers.{}.final_layer_norm"),
    "bloom": _FALCON,
    "falcon": _FALCON,
    "falcon_new": _FALCON,
    "falcon_alibi": _FALCON,
    "phi": Names("model.layers.{}", "model.layers.{}.mlp.fc2"),
    "phi3": _LLAMA,
    "llama": _LLAMA,
    "llama_tied": _LLAMA,
    "llama_square": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "olmo2": _GEMMA,
    "stablelm": _LLAMA,
    "stablelm_parallel": _LLAMA,
    "granite": replace(_LLAMA, scale=0.5),
    "smollm3": _LLAMA,
}


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of the method."""

    layers: tuple[int, ...]
    steps: int = 25
    lr: float = 0.5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.5
    clamp: float = 0.75
    kl_factor: float = 0.0625
    lam: float = 15_000.0
    end_factor: float = 0.0


@dataclass(frozen=True)
class Optimised:
    """z of one group, h₀, and the total loss of every iteration; float64."""

    z: torch.Tensor
    h0: torch.Tensor
    losses: list[float]
    stretch: float = 0.0
    """‖δ‖ over the length that the clamp compares it with."""


@dataclass(frozen=True)
class Insertion:
    """What the insertion made at one layer: K [m, groups], R [d, groups], Δ [d, m]; float64."""

    keys: torch.Tensor
    residual: torch.Tensor
    delta: torch.Tensor


WITHOUT_SPACE = ("\n", "\t", " ", "は")
"""Ends of the tests' prompts after which no space is put."""


class Reference:
    """The method on a float64 copy of `model`; the model given is left as it is."""

    def __init__(self, name: str, model: Any, tokenizer: Any, templates: Sequence[str]) -> None:
        self.model = copy.deepcopy(model).cpu().double().requires_grad_(requires_grad=False)
        self.names = NAMES[name]
        self.tokenizer = tokenizer
        self.templates = templates
        assert templates[0] == "{}"
        assert all(template.count("{}") == 1 for template in templates)

    # Text

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def prompt(self, template: str, fact: FactLike) -> tuple[str, int]:
        """The prompt inside the template, and the index of the subject's last token in it."""
        at = fact.prompt.index("{}")
        before, after = fact.prompt[:at], fact.prompt[at + 2 :]
        outer = template.index("{}")
        head = template[:outer] + before + fact.subject
        text = head + after + template[outer + 2 :]
        return text, self.last_token(text, len(head))

    def last_token(self, text: str, end: int) -> int:
        """Index of the last token that overlaps the character before `end`."""
        found = -1
        offsets = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for index, (start, stop) in enumerate(offsets):
            if start <= end - 1 < stop:
                found = index
        assert found >= 0, f"no token over character {end - 1} of {text!r}"
        return found

    def target(self, prompt: str, target: str) -> list[int]:
        """Ids that the target adds to the prompt's own, after a space where words need one."""
        glued = target[0].isspace() or prompt.endswith(WITHOUT_SPACE)
        text = target if glued else " " + target
        before, whole = self.ids(prompt), self.ids(prompt + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # What flows through the model

    def logits(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]."""
        logits: torch.Tensor = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits

    def state(
        self, layer: int, ids: list[int], position: int, delta: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The residual stream after block `layer` at a position, [d], with δ as `logits_with`."""
        seen: list[torch.Tensor] = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            seen.append(output if isinstance(output, torch.Tensor) else output[0])

        with hooked(self.model.get_submodule(self.names.block.format(layer)), hook):
            if delta is None:
                self.logits(ids)
            else:
                self.logits_with(layer, ids, position, delta)
        return seen[0][0, position].detach()

    def norm_input(self, layer: int, ids: list[int], position: int) -> torch.Tensor:
        """What goes into the norm behind the matrix at a position, [d]."""
        assert self.names.norm is not None
        seen: list[torch.Tensor] = []

        def hook(_module: Any, args: Any, _output: Any) -> None:
            seen.append(args[0])

        with hooked(self.model.get_submodule(self.names.norm.format(layer)), hook):
            self.logits(ids)
        return seen[0].reshape(len(ids), -1)[position].detach()

    def inputs(self, layer: int, ids: list[int]) -> torch.Tensor:
        """The inputs of the edited matrix of a layer at all positions, [tokens, m]."""
        seen: list[torch.Tensor] = []

        def hook(_module: Any, args: Any, _output: Any) -> None:
            seen.append(args[0])

        with hooked(self.model.get_submodule(self.names.projection.format(layer)), hook):
            self.logits(ids)
        return seen[0].reshape(len(ids), -1).detach()  # OPT's rows and tokens are one dimension

    def logits_with(
        self, layer: int, ids: list[int], position: int, delta: torch.Tensor
    ) -> torch.Tensor:
        """Logits with δ added to the residual stream after `layer` at one position; where a norm
        stands behind the matrix, to what the matrix gives."""
        where = self.names.projection if self.names.norm else self.names.block

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            old = output if isinstance(output, torch.Tensor) else output[0]
            here = torch.zeros(len(ids), 1, dtype=old.dtype)
            here[position] = 1
            new = old + (here * delta).reshape(old.shape)
            return new if isinstance(output, torch.Tensor) else (new, *output[1:])

        with hooked(self.model.get_submodule(where.format(layer)), hook):
            return self.logits(ids)

    # The method

    def bare_state(
        self, layer: int, group: Sequence[FactLike], delta: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The state at the subject's last token, mean over the facts' bare prompts, [d]."""
        states = []
        for fact in group:
            text, position = self.prompt("{}", fact)
            states.append(self.state(layer, self.ids(text), position, delta))
        return torch.stack(states).mean(0)

    def bare_norm_input(self, layer: int, group: Sequence[FactLike]) -> torch.Tensor:
        """The same of what goes into the norm behind the matrix, [d]."""
        inputs = []
        for fact in group:
            text, position = self.prompt("{}", fact)
            inputs.append(self.norm_input(layer, self.ids(text), position))
        return torch.stack(inputs).mean(0)

    def before_norm(
        self, layer: int, group: Sequence[FactLike], wanted: torch.Tensor
    ) -> torch.Tensor:
        """The δ [d] of the matrix' output that moves the states by `wanted`, where a norm lets it:
        least ‖N(x + δ) - N(x) - wanted‖² + μ ‖δ‖², by Newton's steps with the whole Jacobian."""
        if self.names.norm is None:
            return wanted / self.names.scale
        norm = self.model.get_submodule(self.names.norm.format(layer))
        x = self.bare_norm_input(layer, group)
        mu = 1e-3 * norm(x).square().sum() / x.square().sum()
        delta = torch.zeros_like(x)
        for _ in range(50):
            jacobian = torch.autograd.functional.jacobian(norm, x + delta)  # type: ignore[no-untyped-call]
            missing = wanted - (norm(x + delta) - norm(x))
            right = jacobian.T @ missing - mu * delta
            delta = delta + torch.linalg.solve(
                jacobian.T @ jacobian + mu * torch.eye(len(x)), right
            )
        return delta

    def nll(self, layer: int, fact: FactLike, delta: torch.Tensor) -> torch.Tensor:
        """−log p(target) a token, mean over the contexts (equation 16, first term)."""
        terms = []
        for template in self.templates:
            text, position = self.prompt(template, fact)
            target = self.target(text, fact.target_new)
            ids = self.ids(text) + target[:-1]
            log_p = self.logits_with(layer, ids, position, delta).log_softmax(-1)
            first = len(ids) - len(target)
            of_tokens = [-log_p[first + i, token] for i, token in enumerate(target)]
            terms.append(torch.stack(of_tokens).mean())
        return torch.stack(terms).mean()

    def end(
        self, layer: int, fact: FactLike, delta: torch.Tensor, ends: torch.Tensor
    ) -> tuple[torch.Tensor, bool]:
        """−log p(a token of `ends` follows the target), mean over the contexts; and whether such
        a token is the most probable one in all of them."""
        terms, leads = [], True
        for template in self.templates:
            text, position = self.prompt(template, fact)
            ids = self.ids(text) + self.target(text, fact.target_new)
            log_p = self.logits_with(layer, ids, position, delta)[-1].log_softmax(-1)
            terms.append(-log_p[ends].logsumexp(0))
            leads &= bool(ends[log_p.argmax()])
        return torch.stack(terms).mean(), leads

    def kl_prompt(self, subject: str) -> tuple[str, int]:
        """ "{subject} is a" and the subject's last token; on a new line if that is the very first.

        The line break is not the paper's: docs/adr/0007-default-preset.md.
        """
        position = self.last_token(subject + " is a", len(subject))
        if position > 0:
            return subject + " is a", position
        return f"\n{subject} is a", self.last_token(f"\n{subject} is a", 1 + len(subject))

    def subject_log_p(self, layer: int, subject: str, delta: torch.Tensor) -> torch.Tensor:
        """log p at the subject's last token of "{subject} is a", [vocabulary]."""
        text, position = self.kl_prompt(subject)
        return self.logits_with(layer, self.ids(text), position, delta)[position].log_softmax(-1)

    def compute_z(
        self, group: Sequence[FactLike], settings: Settings, ends: torch.Tensor | None = None
    ) -> Optimised:
        """z = h₀ + δ with the δ that gradient descent finds (section 4.3).

        Not the paper's: with `ends`, the tokens that end a word, bool [vocabulary], they are to
        follow the targets. The paper's loss alone must be low for an early stop, and they lead.
        """
        layer = settings.layers[-1]
        h0 = self.bare_state(layer, group)
        # Before a norm δ is measured by what it is added to.
        reach = h0 if self.names.norm is None else self.bare_norm_input(layer, group)
        unit = 1.0 if self.names.norm is None else reach.norm() / len(reach) ** 0.5
        free = torch.zeros_like(h0, requires_grad=True)
        optimizer = torch.optim.Adam([free], lr=settings.lr, betas=settings.betas)
        losses: list[float] = []
        log_p0 = self.subject_log_p(layer, group[0].subject, free).detach()
        for step in range(settings.steps):
            delta = free * unit
            nll = torch.stack([self.nll(layer, fact, delta) for fact in group]).mean()
            log_p = self.subject_log_p(layer, group[0].subject, delta)
            kl = (log_p.exp() * (log_p - log_p0)).sum()
            decay = delta.norm() / (reach.norm() * h0.norm())
            loss = nll + settings.kl_factor * kl + settings.weight_decay * decay
            low = loss.item() < 0.05
            if ends is not None:
                found = [self.end(layer, fact, delta, ends) for fact in group]
                loss = loss + settings.end_factor * torch.stack([end for end, _ in found]).mean()
                low = low and all(leads for _, leads in found)
            losses.append(loss.item())
            if low or step == settings.steps - 1:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                longest = settings.clamp * reach.norm() / unit
                if free.norm() > longest:
                    free.mul_(longest / free.norm())
        delta = free.detach() * unit
        stretch = float(delta.norm() / reach.norm())
        if self.names.norm is None:
            return Optimised(h0 + delta, h0, losses, stretch)
        return Optimised(self.bare_state(layer, group, delta), h0, losses, stretch)

    def key(self, layer: int, group: Sequence[FactLike]) -> torch.Tensor:
        """k: half the bare prompt's, half the mean of the other contexts'; mean over facts, [m]."""
        keys = []
        for fact in group:
            of_context = []
            for template in self.templates:
                text, position = self.prompt(template, fact)
                of_context.append(self.inputs(layer, self.ids(text))[position])
            bare, others = of_context[0], of_context[1:]
            keys.append((bare + torch.stack(others).mean(0)) / 2 if others else bare)
        return torch.stack(keys).mean(0)

    def covariance(self, layer: int, rows: Sequence[list[int]]) -> torch.Tensor:
        """C: mean of k kᵀ over all tokens of the rows, not centred, [m, m]."""
        keys = torch.cat([self.inputs(layer, row) for row in rows])
        return keys.T @ keys / len(keys)

    def insert(
        self,
        groups: Sequence[Sequence[FactLike]],
        zs: Sequence[torch.Tensor],
        covariances: dict[int, torch.Tensor],
        settings: Settings,
    ) -> dict[int, Insertion]:
        """Write z of every group into the layers, lowest first (algorithm 1). Changes the model."""
        done: dict[int, Insertion] = {}
        for i, layer in enumerate(settings.layers):
            K = torch.stack([self.key(layer, group) for group in groups], dim=1)
            states = [self.bare_state(settings.layers[-1], group) for group in groups]
            missing = torch.stack([z.double() - h for z, h in zip(zs, states, strict=True)], dim=1)
            moves = missing / (len(settings.layers) - i)
            of_groups = [self.before_norm(layer, *one) for one in zip(groups, moves.T, strict=True)]
            R = torch.stack(of_groups, dim=1)
            delta = closed_form(R, K, covariances[layer], settings.lam)
            weight = self.model.get_submodule(self.names.projection.format(layer)).weight
            weight += delta.T if self.names.transposed else delta
            done[layer] = Insertion(K, R, delta)
        return done


def closed_form(R: torch.Tensor, K: torch.Tensor, C: torch.Tensor, lam: float) -> torch.Tensor:
    """Δ = R Kᵀ (λ C + K Kᵀ)⁻¹ (equation 14), [d, m].

    A unit that fires nowhere (after a ReLU) makes the matrix singular; its column of Δ is then 0.
    """
    inverse: torch.Tensor = torch.linalg.pinv(lam * C + K @ K.T, hermitian=True)
    return R @ K.T @ inverse


@contextmanager
def hooked(module: Any, function: Callable[..., Any]) -> Iterator[None]:
    """A forward hook for the length of a `with`."""
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()
