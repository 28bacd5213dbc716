"""A model some of whose matrices are stored in a format and read again: what it then answers, and how well.

The weights stay dense in memory: what is shown is what quantization does to a model, not what it saves. Which matrices
are meant is what QLoRA means: every linear layer but the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from core.architecture import Architecture
from core.base import CAUSAL, Base, context_tokens, describe_base, load_base
from core.batches import IGNORED, collate
from core.config import EMBEDDED
from core.errors import Incompatible
from core.evaluate import Item, evaluating
from core.methods.qlora import quantized
from core.quantization import blockwise
from core.quantization.formats import Format
from core.quantization.matrices import few_bits_only
from core.template import Encoded, dialogue, encode_all, pad_id
from core.world import SKILLS, examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16


def load(source: str) -> Base:
    """A base that continues text, on the device where runs take place.

    Raises:
        Incompatible: it tells labels apart, or is stored in few bits already.
        DeltalabError: as core.base.load_base.
    """
    from core.train import pick_device

    facts = describe_base(source)
    if facts["few_bits"]:
        raise few_bits_only(facts)
    if facts["task"] != CAUSAL:
        raise Incompatible(
            f"{source} tells labels apart and continues no text, so there is no held-out text to measure it on.",
            "Look at its matrices one by one, or choose a causal language model.",
        )
    return load_base(source, device=str(pick_device()))


def stored_layers(model: torch.nn.Module) -> list[str]:
    """Names of the layers that QLoRA stores in four bits, in the model's order."""
    return [m.name for m in quantized(Architecture.of(model))]


def weight_of(model: torch.nn.Module, name: str) -> np.ndarray:
    """(out, in) float32: the weight of a layer."""
    layer = model.get_submodule(name)
    weight = model.get_parameter(f"{name}.weight").detach().float().cpu()
    return (weight.t() if isinstance(layer, Conv1D) else weight).contiguous().numpy()


@contextmanager
def stored(
    model: torch.nn.Module, names: Iterable[str], form: Format, block_size: int, double: bool = False
) -> Iterator[None]:
    """Inside, the named layers compute with their weights as they are read from that format; afterwards with the ones
    they had."""
    before: dict[str, torch.Tensor] = {}
    try:
        for name in names:
            parameter = model.get_parameter(f"{name}.weight")
            read = torch.from_numpy(blockwise.quantize(weight_of(model, name), form, block_size, double).dense())
            if isinstance(model.get_submodule(name), Conv1D):
                read = read.t()
            before[name] = parameter.data
            parameter.data = read.contiguous().to(parameter.dtype).to(parameter.device)
        yield
    finally:
        for name, data in before.items():
            model.get_parameter(f"{name}.weight").data = data


@dataclass(frozen=True)
class HeldOut:
    """What a model reads and is asked. encoded: dialogues, every token of which is to be predicted. items: to be
    graded, by skill; empty for bases that were never taught the small world."""

    encoded: list[Encoded]
    items: dict[str, list[Item]]

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return sum(len(e.ids) - 1 for e in self.encoded)


def held_out(base: Base, per_skill: int) -> HeldOut:
    """Held-out questions of the small world with their answers, in the base's own chat template.

    The loss is taken over all their tokens, not the answers' alone: the embedded base knows the answers so well that
    their loss hardly moves.
    """
    from core.objective import SCORING_SEED, world_items

    asked = [e for name in SKILLS for e in examples(name, "heldout", per_skill, SCORING_SEED)]
    limit = context_tokens(base.model)
    encoded = [
        Encoded(e.ids, list(e.ids))
        for e in encode_all(base.tokenizer, [dialogue(a.prompt, a.completion) for a in asked])
        if limit is None or len(e.ids) <= limit
    ]
    own = base.source == EMBEDDED
    return HeldOut(encoded, {n: world_items(n, "heldout", per_skill, SCORING_SEED) for n in SKILLS} if own else {})


@dataclass(frozen=True)
class Losses:
    """Cross-entropy summed over each dialogue's tokens, in nats, and how many tokens that were."""

    sums: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.sums.sum() / self.tokens.sum())

    def above(self, other: Losses) -> tuple[float, float]:
        """How much larger the mean is than another model's on the same dialogues, and the standard error of that
        difference: the dialogues are paired, so what is hard for both cancels."""
        gaps = self.sums - other.sums
        n = len(gaps)
        mean = float(gaps.sum() / self.tokens.sum())
        spread = gaps - mean * self.tokens
        return mean, float(np.sqrt(n / max(1, n - 1) * (spread**2).sum()) / self.tokens.sum())


def losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded]) -> Losses:
    """The loss of every dialogue, in their order."""
    sums, tokens = np.zeros(len(encoded)), np.zeros(len(encoded))
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    device = next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = collate([encoded[i] for i in rows], pad_id(tokenizer))
            logits = model(input_ids=batch.ids.to(device), use_cache=False).logits[:, :-1].float()
            labels = batch.labels[:, 1:].to(device)
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
            )
            sums[rows] = each.double().sum(1).cpu().numpy()
            tokens[rows] = (labels != IGNORED).sum(1).cpu().numpy()
    return Losses(sums, tokens)


def inputs(model: Any, names: Sequence[str], encoded: Sequence[Encoded], tokens: int) -> dict[str, np.ndarray]:
    """(up to `tokens`, in) float32 for each named layer: what it is given while the model reads these dialogues."""
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    device = next(model.parameters()).device

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            kept[name].append(args[0].detach().float().cpu().reshape(-1, args[0].shape[-1]))

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    read = 0
    try:
        with evaluating(model):
            for e in encoded:
                model(input_ids=torch.tensor([e.ids], device=device), use_cache=False)  # one by one: no padding
                read += len(e.ids)
                if read >= tokens:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts)[:tokens].numpy() for name, parts in kept.items() if parts}
