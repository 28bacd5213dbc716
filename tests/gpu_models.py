"""Models with random weights for `make gpu`, made where they run: nothing is drawn on the processor, and a base in four
bits never stands there in sixteen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SPREAD = 0.02  # standard deviation of the weights, as families of models begin with


def random_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """With the weights that its family begins with, in training mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def four_bit_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Every linear layer but the head is bitsandbytes' Linear4bit (NF4, nested), as transformers sets a 4-bit base up;
    the rest in `dtype`, in training mode. Layer by layer: at most one is there in `dtype`."""
    from core.methods.modules import replace_module

    with _linear_layers_without_data():
        model = random_model(config, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    head = model.get_output_embeddings()
    for path in [path for path, layer in model.named_modules() if type(layer) is torch.nn.Linear]:
        layer = model.get_submodule(path)
        if layer is head:
            _fill(layer, dtype, device, generator)
            continue
        replace_module(model, path, _four_bits(layer, dtype, device, generator))
    return model.requires_grad_(False)


@contextmanager
def _linear_layers_without_data() -> Iterator[None]:
    """Within this, torch.nn.Linear makes its parameters on the meta device."""
    plain = torch.nn.Linear.__init__

    def on_meta(self: Any, *args: Any, **named: Any) -> None:
        plain(self, *args, **{**named, "device": "meta"})

    torch.nn.Linear.__init__ = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Linear.__init__ = plain  # type: ignore[method-assign]


def _fill(layer: Any, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    """Give a linear layer the data that it lacks: what is tied to another matrix has some already."""
    if layer.weight.is_meta:
        drawn = torch.empty(layer.weight.shape, dtype=dtype, device=device).normal_(0, SPREAD, generator=generator)
        layer.weight = torch.nn.Parameter(drawn)
    if layer.bias is not None and layer.bias.is_meta:
        layer.bias = torch.nn.Parameter(torch.zeros(layer.bias.shape, dtype=dtype, device=device))


def _four_bits(layer: Any, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Any:
    """A layer of that shape in four bits."""
    from core.layers.quiet_bitsandbytes import bnb

    _fill(layer, dtype, device, generator)
    four = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, compress_statistics=True,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    four.weight = bnb.nn.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=four
    ).to(device)
    four.bias = layer.bias
    four.support_avx512bf16_for_cpu = False  # (see core/layers/four_bit.py)
    return four
