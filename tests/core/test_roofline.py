"""The roofline's closed forms against operations that are really carried out, counted tensor by tensor."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core import roofline
from core.catalog import architecture_of, gpu, gpus
from core.errors import Incompatible
from core.roofline import Limit, limit_of, operations, savings, total

FRESH = ("zeros", "empty", "new_zeros", "zeros_like", "empty_like", "new_empty_strided", "ones_like")


class Counted(TorchDispatchMode):
    """Bytes that operations read and write, each tensor once for each operation; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.is_view or name in ("detach", "alias", "_unsafe_view"):
            return out

        def size(tensor: torch.Tensor) -> int:
            """What an expanded tensor holds is read once."""
            numbers = 1
            for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
                numbers *= n if stride else 1
            return numbers * tensor.element_size()

        if name == "nll_loss_forward":  # it picks one number of a row
            args = args[1:]
        read = [] if name in FRESH else [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        self.bytes += sum(size(t) for t in [*read, *(t for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        self.launches += 1
        return out


def counted(function: Any, *inputs: torch.Tensor) -> tuple[float, float, int]:
    """Bytes forward and backward, and operations of both."""
    leaves = [t.detach().clone().requires_grad_(True) for t in inputs]
    with Counted() as forward:
        found = function(*leaves)
    outputs = list(found) if isinstance(found, tuple) else [found]
    above = [torch.ones_like(o) for o in outputs]
    with Counted() as backward:
        torch.autograd.backward(outputs, above)
    return forward.bytes, backward.bytes, forward.launches + backward.launches


def check(cost: roofline.Elementwise, found: tuple[float, float, int], numbers: int) -> None:
    """To within what the few numbers beside the large tensors (a row's mean, the cosines) come to."""
    assert found[0] / numbers == pytest.approx(cost.forward_bytes, abs=0.6), found[0] / numbers
    assert found[1] / numbers == pytest.approx(cost.backward_bytes, abs=0.6), found[1] / numbers
    assert found[2] == cost.launches


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def test_rms_norm_as_transformers_does_it() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(256).to(torch.bfloat16).requires_grad_(False)
    check(roofline.RMS_NORM[0], counted(norm, bf16(512, 256)), 512 * 256)


def test_rotary_positions_as_transformers_does_them() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k, angle = bf16(4, 8, 256, 64), bf16(4, 2, 256, 64), bf16(1, 256, 64)
    found = counted(lambda q, k: apply_rotary_pos_emb(q, k, angle, angle), q, k)
    check(roofline.ROPE[0], found, q.numel() + k.numel())


def test_the_gated_activation_and_the_sums() -> None:
    a, b = bf16(64, 96), bf16(64, 96)
    check(roofline.SWIGLU[0], counted(lambda g, u: torch.nn.functional.silu(g) * u, a, b), a.numel())
    forward, _, _ = counted(lambda x, r: x + r, a, b)
    assert forward / a.numel() == roofline.RESIDUAL[0].forward_bytes


def test_cross_entropy_in_32_bits() -> None:
    logits, labels = bf16(64, 1000), torch.arange(64)
    found = counted(lambda z: torch.nn.functional.cross_entropy(z.float(), labels), logits)
    check(roofline.CROSS_ENTROPY[0], found, logits.numel())


@pytest.mark.parametrize("fused", [False, True])
def test_lora_beside_a_base_in_16_bits(fused: bool) -> None:
    """PEFT's layer and ours under autocast, all of it but the two products with the base's weight: every byte of every
    cast, and every launch."""
    tokens, fan_in, fan_out, rank = 256, 96, 64, 8
    plain = torch.nn.Linear(fan_in, fan_out, bias=False).to(torch.bfloat16).requires_grad_(False)
    layer: Any
    if fused:
        from core.layers.low_rank import LowRank

        layer = LowRank(plain, rank, 2.0)
    else:
        from peft import LoraConfig, get_peft_model

        layer = get_peft_model(torch.nn.Sequential(plain), LoraConfig(r=rank, target_modules=["0"]))

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = layer(x)
        return found

    forward, backward, launches = counted(call, bf16(tokens, fan_in))
    product = 2 * (tokens * (fan_in + fan_out) + fan_in * fan_out)
    body: Any = [SimpleNamespace(in_features=fan_in, out_features=fan_out)]
    mine = roofline._pairs(body, tokens, rank, 2, fused, False)
    assert sum(o.bytes for o in mine) == forward + backward - 2 * product
    assert sum(o.launches for o in mine) == launches - 2


def test_casting_weights_that_train() -> None:
    layer = torch.nn.Linear(96, 64, bias=False)

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = layer(x)
        return found

    forward, backward, launches = counted(call, bf16(256, 96))
    product = 2 * (256 * (96 + 64) + 96 * 64)
    assert forward + backward - 3 * product == 2 * roofline.CAST_BYTES * 96 * 64
    assert launches - 3 == 2
    rows = {o.name: o for o in operations(architecture_of("Llama-3.2-1B"), batch=1, length=8, method="full")}
    assert rows["casting weights"].launches == 2 * (7 * 16 + 1)


def test_the_kernels_count_as_the_roofline_does() -> None:
    """FLOPs and bytes of a number, said in kernels/ and here."""
    from kernels import linear_cross_entropy, rms_norm, rope, swiglu

    for file, (plain, fused) in (
        (rms_norm, (roofline.RMS_NORM[0], roofline.RMS_NORM[1])), (swiglu, roofline.SWIGLU), (rope, roofline.ROPE),
    ):  # fmt: skip
        case = file.SIZES[0] | ({"residual": 0} if file is rms_norm else {})
        cost, n = file.cost(case), file.size(case)
        assert cost.flops == n * plain.flops == n * fused.flops, file.__name__
        assert cost.plain_bytes == n * plain.bytes
        assert cost.bytes / n == pytest.approx(fused.bytes, abs=0.6)  # beside the cosines and sines
    case = linear_cross_entropy.SIZES[0]  # one chunk
    cost = linear_cross_entropy.cost(case)
    products = 4 * case["rows"] * case["width"] * case["vocabulary"]
    assert cost.flops - products == linear_cross_entropy.size(case) * roofline.CROSS_ENTROPY[1].flops


def test_products_are_counted_by_torch_as_here() -> None:
    """A model of Llama's kind, forward and backward, by torch's own counter of operations."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, LlamaConfig

    from core.architecture import Architecture

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=200, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    table = Architecture.of(model)
    ids = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    rows = {o.name: o for o in operations(table, batch=2, length=32, method="full")}
    mine = rows["products with the base's weights"].flops + rows["product with the output layer"].flops
    # Attention as transformers does it, of all pairs of tokens, twice forward and four times backward.
    attention = 2 * 3 * 2 * 2 * 4 * 32 * 32 * 16 * 3
    assert counter.get_total_flops() - attention == mine


def test_fusing_spares_bytes_and_launches_and_no_arithmetic_of_products() -> None:
    table = architecture_of("Llama-3.1-8B")
    limit = limit_of(gpu("H100 SXM"))
    assert limit is not None
    for method in roofline.METHODS:
        plain = operations(table, batch=4, length=1024, method=method)
        fused = operations(table, batch=4, length=1024, method=method, fused=True)
        assert [o.name for o in plain] == [o.name for o in fused]
        before, after = total(plain, limit), total(fused, limit)
        assert after.bytes < before.bytes
        assert after.launches < before.launches
        assert after.device_seconds < before.device_seconds
        assert all(s.bytes > 0 or s.kernel == "lora_linear" for s in savings(plain, fused, limit))
    assert {s.kernel for s in savings(plain, fused, limit)} <= {"", *_kernels()}


def _kernels() -> tuple[str, ...]:
    from kernels import KERNELS

    return KERNELS


def test_what_the_plan_rests_on() -> None:
    """A tiny model waits for its launches; an 8B model for arithmetic; decoding is a small part of its QLoRA step."""
    limit = limit_of(gpu("H100 SXM"))
    assert limit is not None
    large = operations(architecture_of("Llama-3.1-8B"), batch=4, length=1024, method="qlora")
    whole = total(large, limit)
    assert whole.device_seconds > whole.host_seconds
    assert whole.share > 0.4
    decoding = next(o for o in large if "decoding" in o.name)
    assert decoding.seconds(limit) < 0.1 * whole.device_seconds
    assert decoding.bound(limit) == "memory"
    small = operations(architecture_of("SmolLM2-135M"), batch=1, length=64, method="qlora")
    waits = total(small, limit)
    assert waits.host_seconds > 5 * waits.device_seconds
    graph = total(operations(architecture_of("SmolLM2-135M"), batch=1, length=64, method="qlora", graph=True), limit)
    assert graph.launches == 1
    assert graph.seconds < waits.seconds


def test_limits() -> None:
    one = Limit("a card", 100.0, 10.0)
    assert one.ridge == 10
    assert (one.reachable(1), one.reachable(10), one.reachable(1000)) == (10, 100, 100)
    known = [limit_of(g) for g in gpus()]
    assert sum(k is not None for k in known) > 20
    unknown = dataclasses.replace(gpu("H100 SXM"), bandwidth_gb_s=None)
    assert limit_of(unknown) is None


def test_more_tokens_never_cost_less() -> None:
    table = architecture_of("Llama-3.2-1B")
    for fused in (False, True):
        steps = [operations(table, batch=b, length=128, method="qlora", fused=fused) for b in (1, 2, 8)]
        for few, many in itertools.pairwise(steps):
            assert all(a.flops <= b.flops and a.bytes <= b.bytes for a, b in zip(few, many, strict=True))


def test_another_kind_of_model_is_refused_in_words() -> None:
    with pytest.raises(Incompatible, match="not of Llama's kind"):
        operations(architecture_of("GPT-2"), batch=1, length=8)
    with pytest.raises(Incompatible, match="no roofline"):
        operations(architecture_of("Llama-3.2-1B"), batch=1, length=8, method="dora")


def test_the_fused_loss_reads_the_output_layer_once_for_each_chunk() -> None:
    from core.roofline import loss_chunks
    from kernels import linear_cross_entropy

    for case in linear_cross_entropy.SIZES:
        rows, vocabulary = case["rows"], case["vocabulary"]
        assert loss_chunks(rows, vocabulary) == linear_cross_entropy.chunks(rows, vocabulary)
    assert loss_chunks(4096, 128_256) == 4
