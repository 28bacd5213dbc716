"""Claims on how many parameters train: closed forms over the tables of the catalogue's models. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from safetensors import safe_open

from core.architecture import Architecture, is_bias
from core.catalog import architecture_of, models
from core.claims.figures import Computed, lora_count, near, number, share, share_text
from core.errors import Incompatible
from core.methods import METHODS
from core.methods.lora import pair_parameters

GPT3 = (96, 12_288)
"""Layers and width of GPT-3 175B (Brown et al. 2020, table 2.1)."""
LORA_SIZES = ((8, "q_proj,v_proj"), (16, "all-linear"), (64, "all-linear"))
BIASED = ("BERT-base-uncased", "BERT-large-uncased", "RoBERTa-base", "GPT-2", "OPT-1.3B", "Qwen2.5-7B", "Llama-3.1-8B")


def under_a_percent() -> Computed:
    """5: PEFT often trains under 0.1 % of the parameters (others say: under 1 %)."""
    by_method: dict[str, list[float]] = {}
    for row in models():
        if not row.is_decoder:
            continue
        table = architecture_of(row.name)
        wanted: list[tuple[str, Any]] = [
            (name, m.Config()) for name, m in METHODS.items() if name not in ("full", "last_k")
        ]
        wanted += [("lora", METHODS["lora"].Config(rank=r, target_modules=t)) for r, t in LORA_SIZES]
        for name, settings in wanted:
            try:
                trained = METHODS[name].count(table, settings)
            except Incompatible:
                continue
            by_method.setdefault(name, []).append(trained / table.total)
    shares = [s for found in by_method.values() for s in found]
    tenth, one = (sum(s < limit for s in shares) / len(shares) for limit in (1e-3, 1e-2))
    lora = sorted(by_method["lora"])
    figures = [
        share("of all pairs train under 0.1 %", tenth, f"{sum(s < 1e-3 for s in shares)} of {len(shares)}"),
        share("of all pairs train under 1 %", one, f"{sum(s < 1e-2 for s in shares)} of {len(shares)}"),
        share("least that LoRA trains", lora[0], "over the catalogue, ranks 8 to 64"),
        share("most that LoRA trains", lora[-1], "over the catalogue, ranks 8 to 64"),
    ]
    told = (
        f"Of {len(shares):,} pairs of a model and a method {share_text(tenth)} train under 0.1 %, and "
        f"{share_text(one)} under 1 %; LoRA alone ranges from {share_text(lora[0])} to {share_text(lora[-1])}."
    )
    return [s < 1e-3 for s in shares], told, figures


def ten_thousand() -> Computed:
    """9: LoRA cuts the number of trained parameters by up to 10,000 times."""
    layers, width, rank, total = *GPT3, 4, 175e9
    trained = layers * 2 * rank * 2 * width
    times = total / trained
    figures = [
        number("trained", trained, f"{layers} layers × 2 matrices × {rank} × ({width:,} + {width:,})", "parameters",
               f"{trained:,}"),
        number("fewer, times", times, f"175 billion / {trained:,}", "times", f"{times:,.0f} times"),
        number("at rank 1 on one of the two, times", total / (trained / 8), "an eighth of the trained", "times",
               f"{total / (trained / 8):,.0f} times"),
    ]  # fmt: skip
    told = f"At rank 4 on queries and values {trained:,} train, {times:,.0f} times fewer: 10,000 is that, rounded."
    return [near(times, 1e4, 0.1)], told, figures


def _one_matrix(d: int, k: int, rank: int) -> tuple[int, int, float]:
    """Trained by a pair, weights of the matrix, and the share."""
    trained, whole = pair_parameters(k, d, rank), d * k
    return trained, whole, trained / whole


def a_thousand() -> Computed:
    """10: a 1000 × 1000 matrix at r = 8: 16,000 instead of 1,000,000, 98.4 % fewer."""
    trained, whole, part = _one_matrix(1000, 1000, 8)
    figures = [
        number("trained", trained, "8 × (1,000 + 1,000)", "parameters", f"{trained:,}"),
        number("weights of the matrix", whole, "1,000 × 1,000", "parameters", f"{whole:,}"),
        share("fewer", 1 - part, f"1 − {trained:,} / {whole:,}"),
    ]
    told = f"{trained:,} instead of {whole:,}: {figures[2].text} fewer."
    return [(trained, whole) == (16_000, 1_000_000), near(1 - part, 0.984, 1e-6)], told, figures


def four_thousand() -> Computed:
    """11: a 4096 × 4096 matrix at r = 16: about 130k of 16 M."""
    trained, whole, part = _one_matrix(4096, 4096, 16)
    figures = [
        number("trained", trained, "16 × (4,096 + 4,096)", "parameters", f"{trained:,}"),
        number("weights of the matrix", whole, "4,096 × 4,096", "parameters", f"{whole:,}"),
        share("of the matrix", part, f"{trained:,} / {whole:,}"),
    ]
    told = f"{trained:,} of {whole:,}, {figures[2].text} of the matrix."
    return [near(trained, 130e3, 0.02), near(whole, 16e6, 0.05)], told, figures


def biases() -> Computed:
    """14: BitFit trains under 0.1 % of the parameters."""
    found = {}
    for name in BIASED:
        table = architecture_of(name)
        found[name] = (sum(m.bias for m in table.modules), table.total)
    found["Deltalab's embedded base"] = _embedded_biases()
    figures = [share(name, count / total, f"{count:,} of {total:,}") for name, (count, total) in found.items()]
    some = [f for f in figures if f.value]
    told = "; ".join(f"{f.name} {f.text}" for f in some)
    none = ", ".join(f.name for f in figures if not f.value)
    return (
        [f.value < 1e-3 for f in some],
        f"{told}. {none} has no bias to train. The smaller the model, the larger the share: biases grow with its "
        "width, matrices with the width's square.",
        figures,
    )


def _embedded_biases() -> tuple[int, int]:
    """Biases and parameters of the embedded base, by what stands in its file."""
    from core.base import EMBEDDED_FOLDER, WEIGHTS

    with safe_open(EMBEDDED_FOLDER / WEIGHTS, framework="numpy") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return sum(size for name, size in sizes.items() if is_bias(name)), sum(sizes.values())


def _key_width(table: Architecture) -> tuple[int, int]:
    """Width of the keys over all layers together (what a prefix steers), and the layers' numbers of the cache."""
    return table.cache_numbers // 2, table.cache_numbers


def smallest_methods() -> Computed:
    """23: prompt tuning is cheapest at the input, prefix tuning steers every layer, IA3 rescales activations."""
    names = [row.name for row in models() if row.is_decoder]
    cases: list[bool | None] = []
    figures = []
    prompts = METHODS["prompt_tuning"].Config()
    prefixes = METHODS["prefix_tuning"].Config(tokens=prompts.tokens)
    for name in names:
        table = architecture_of(name)
        try:
            prompt = METHODS["prompt_tuning"].count(table, prompts)
            prefix = METHODS["prefix_tuning"].count(table, prefixes)
            scale = METHODS["ia3"].count(table, METHODS["ia3"].Config())
        except Incompatible:
            continue
        keys, both = _key_width(table)
        entry = next(m.out_features for m in table.modules if m.kind == "embedding")
        cases += [prompt == prompts.tokens * entry, prefix == prompts.tokens * both, prompt <= min(prefix, scale)]
        if name == "Llama-3.1-8B":
            layers = 32
            figures = [
                number("prompt tuning trains", prompt, f"n·d = {prompts.tokens} × {entry:,}", "parameters",
                       f"{prompt:,}"),
                number("prefix tuning trains", prefix,
                       f"2·n·L·d_kv = 2 × {prompts.tokens} × {layers} × {keys // layers:,}", "parameters",
                       f"{prefix:,}"),
                number("IA3 trains", scale, f"L·(d_k + d_v + d_ff) = {layers} × {scale // layers:,}", "parameters",
                       f"{scale:,}"),
            ]  # fmt: skip
    formulas = [bool(c) for i, c in enumerate(cases) if i % 3 != 2]
    cheapest = [bool(c) for i, c in enumerate(cases) if i % 3 == 2]
    told = (
        f"On Llama-3.1-8B with {prompts.tokens} tokens prompt tuning trains {figures[0].text}, prefix tuning "
        f"{figures[1].text}, IA3 {figures[2].text}. The formulas are exact for {sum(formulas) // 2} of "
        f"{len(cheapest)} decoders; prompt tuning is the smallest of the three in {sum(cheapest)} of them."
    )
    return cases, told, figures


COMPUTE: dict[int, Callable[[], Computed]] = {
    5: under_a_percent, 9: ten_thousand, 10: a_thousand, 11: four_thousand, 14: biases, 23: smallest_methods,
}  # fmt: skip

__all__ = ["BIASED", "COMPUTE", "LORA_SIZES", "lora_count"]
