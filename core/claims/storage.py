"""Claims on what is kept on disk. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from core.catalog import architecture_of
from core.claims.figures import Computed, decimal_text, lora_count, near, share, share_text, sized
from core.claims.parameters import LORA_SIZES
from core.units import DTYPE_BYTES

FEW_MEGABYTES = 20e6  # what passes for "a few MB"


def checkpoints() -> Computed:
    """8: a 70B checkpoint is about 140 GB; ten tasks 1.4 TB; a base and ten 100 MB adapters save over 80 %."""
    total = architecture_of("Llama-3.1-70B").total
    one = total * DTYPE_BYTES["bfloat16"]
    ten, adapters = 10 * one, one + 10 * 100e6
    saved = 1 - adapters / ten
    figures = [
        sized("a checkpoint", one, f"{total:,} × 2 bytes"),
        sized("ten of them", ten, f"10 × {decimal_text(one)}"),
        sized("one base and ten adapters", adapters, f"{decimal_text(one)} + 10 × 100 MB"),
        share("saved", saved, f"1 − {decimal_text(adapters)} / {decimal_text(ten)}"),
    ]
    told = (
        f"A checkpoint takes {figures[0].text}, ten take {figures[1].text}; base and adapters save {share_text(saved)}."
    )
    return [near(one, 140e9, 0.02), near(ten, 1.4e12, 0.02), saved > 0.8], told, figures


def few_megabytes() -> Computed:
    """12: an adapter takes a few MB, the model gigabytes."""
    table = architecture_of("Llama-3.1-8B")
    whole = table.total * DTYPE_BYTES["bfloat16"]
    figures = [sized("the model in 16 bits", whole, f"{table.total:,} × 2 bytes")]
    for rank, targets in LORA_SIZES:
        count = lora_count(table, rank, targets)
        figures.append(sized(f"rank {rank}, {targets}", count * 4, f"{count:,} × 4 bytes"))
    told = (
        f"At rank 8 on queries and values the file has {figures[1].text}, at rank 16 on all linear layers "
        f"{figures[2].text}, at rank 64 {figures[3].text}; the model has {figures[0].text}. Saved in 16 bits, half."
    )
    return [f.value <= FEW_MEGABYTES and whole > 1e9 for f in figures[1:]], told, figures


COMPUTE: dict[int, Callable[[], Computed]] = {8: checkpoints, 12: few_megabytes}
