"""Attaching methods to tiny models, training them a little, and what must come back: for the tests of methods."""

from __future__ import annotations

import torch

from core.methods import METHODS
from tests.checkpoints import make_model


def ids(seed: int = 1, shape: tuple[int, int] = (3, 11)) -> torch.Tensor:
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(seed))


def logits(model: torch.nn.Module, tokens: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids() if tokens is None else tokens, use_cache=False).logits


def attach(method: str, family: str, seed: int = 7, **settings):
    """A fresh tiny model with the method attached, seeded, in evaluation mode."""
    model = make_model(family)
    torch.manual_seed(seed)
    return METHODS[method].apply(model, METHODS[method].Config(**settings))


def train(attached, steps: int = 3, rate: float = 1e-2) -> None:
    """A few AdamW steps on random tokens; every gradient of the last step is left in place."""
    trained = [p for p in attached.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        tokens = ids(step)
        attached.model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()


def reference_base(method: str, family: str, *, double: bool = True) -> torch.nn.Module:
    """The model that `disable` must give back. For QLoRA: the base with each linear weight stored in 4 bits and read
    again, by bitsandbytes' own functions."""
    model = make_model(family)
    if method == "qlora":
        from core.layers.quiet_bitsandbytes import bnb

        head = model.get_output_embeddings()
        with torch.no_grad():
            for layer in model.modules():
                kind = type(layer).__name__
                if layer is head or kind not in ("Linear", "Conv1D"):
                    continue
                dense = layer.weight.t().contiguous() if kind == "Conv1D" else layer.weight
                # As rows of one block each: bitsandbytes' CPU code misreads blocks that cross the ends of rows.
                packed, state = bnb.functional.quantize_4bit(
                    dense.reshape(-1, 64), quant_type="nf4", compress_statistics=double
                )
                read = bnb.functional.dequantize_4bit(packed, state).view(dense.shape)
                layer.weight.copy_(read.t() if kind == "Conv1D" else read)
    return model
