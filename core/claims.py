"""Statements that circulate in courses, each with the figure that this engine computes for it, and a verdict.

    claim(8).told        # 'The checkpoint takes 141 GB, ten take 1.41 TB; one base and ten adapters of 100 MB …'

What is claimed, under which assumptions, and where it comes from, stands in core/catalog/claims.toml; here are the
numbers, from closed forms over the catalogue's tables and from the shipped surrogates of traced steps. Nothing is
measured and nothing is typed in: asked again after the catalogue has grown, a claim may fall. Imports no torch.

Verdicts: holds; holds if (under the assumptions that are told, and not under others); off (the figure is another).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from core.architecture import Architecture
from core.catalog import FOLDER, architecture_of, gpu, gpus, models
from core.errors import Incompatible, NotFound
from core.memory.card import totals
from core.memory.estimate import Sizes, Surrogate, find
from core.memory.setup import Device, Setup
from core.memory.sharded import Sharding
from core.methods import METHODS
from core.units import DTYPE_BYTES, GIB, bytes_text, count_text

HOLDS, HOLDS_IF, OFF = "holds", "holds if", "off"
TOPICS = ("memory", "parameters", "storage", "hardware")
CARD = Device((8, 9))
LENGTH = 512


@dataclass(frozen=True)
class Reference:
    """A paper or page. where: section or table in it."""

    key: str
    title: str
    authors: str
    year: int
    where: str
    address: str


@dataclass(frozen=True)
class Figure:
    """A computed number. unit: bytes, share, times, parameters, USD, bits, or "" for a bare number. text: for a person.
    formula: how it comes about, with the numbers in it."""

    name: str
    value: float
    unit: str
    text: str
    formula: str


@dataclass(frozen=True)
class Claim:
    """A statement and what became of it. text: the statement. told: the verdict as a sentence, with its numbers."""

    number: int
    topic: str
    text: str
    assumptions: tuple[str, ...]
    references: tuple[Reference, ...]
    figures: tuple[Figure, ...]
    verdict: str
    told: str


Computed = tuple[str, str, list[Figure]]  # verdict, told, figures


# --- figures for people -----------------------------------------------------------------------------------------------


def decimal_text(count: float) -> str:
    """Bytes in the units in which disks and checkpoints are sold: 1.41e12 -> '1.41 TB'."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} B"


def share_text(share: float) -> str:
    """0.0009 -> '0.09 %'."""
    return f"{100 * share:.3g} %"


def _bytes(name: str, value: float, formula: str) -> Figure:
    return Figure(name, value, "bytes", decimal_text(value), formula)


def _binary(name: str, value: float, formula: str) -> Figure:
    """What a card reports, in binary units."""
    return Figure(name, value, "bytes", bytes_text(value), formula)


def _share(name: str, value: float, formula: str) -> Figure:
    return Figure(name, value, "share", share_text(value), formula)


def _number(name: str, value: float, formula: str, unit: str = "", text: str | None = None) -> Figure:
    return Figure(name, value, unit, text if text is not None else f"{value:,.4g}", formula)


# --- what the engine knows --------------------------------------------------------------------------------------------


def _made(model: str, method: str, length: int = LENGTH, *, checkpointing: bool = True) -> tuple[Surrogate, Sizes]:
    """The shipped surrogate of a step of one row, and its sizes.

    Raises:
        NotFound: none is shipped.
    """
    settings = METHODS[method].Config()
    setup = Setup(
        method, settings, 1, length, device=CARD, precision="bfloat16",
        checkpointing=checkpointing and METHODS[method].CHECKPOINTS,
    )  # fmt: skip
    found = find(model, setup)
    if found is None:
        raise NotFound(
            f"No estimate of {model} with {method} comes with the program.", "Run python -m core.memory.fit."
        )
    return found, Sizes.of(setup)


def _process(model: str, method: str) -> int:
    """The likely total of the process on a card, one row of 512 tokens, activations recomputed."""
    made, sizes = _made(model, method)
    return totals(made.peak_bytes(sizes), CARD).process[1]


def _lora(table: Architecture, rank: int, targets: str) -> int:
    return METHODS["lora"].count(table, METHODS["lora"].Config(rank=rank, target_modules=targets))


# --- the claims -------------------------------------------------------------------------------------------------------

STATES = (
    ("16-bit weight", 2),
    ("16-bit gradient", 2),
    ("32-bit master copy", 4),
    ("Adam's mean", 4),
    ("of squares", 4),
)


def _bytes_a_parameter() -> Computed:
    low = sum(size for _, size in STATES)
    high = low + 4
    made, sizes = _made("Llama-3.1-8B", "full")
    parts = made.ledger(sizes).terms
    total = architecture_of("Llama-3.1-8B").total
    own = {t.name: t.bytes / total for t in parts}
    states = own["trained weights"] + own["optimizer state"] + 4  # a gradient each, whether or not all live at the peak
    rest = sum(t.bytes for t in made.ledger(Sizes(4, 2048)).terms if t.name in ("activations", "logits and loss"))
    figures = [
        _number("mixed precision with a master copy", low, " + ".join(f"{s} ({n})" for n, s in STATES)),
        _number("and gradients summed in 32 bits", high, f"{low} + 4"),
        _number("Deltalab: 32-bit weights, 16-bit passes", round(states, 2),
                "traced on Llama-3.1-8B: weights + optimizer state + 4 for a gradient", text=f"{states:.1f}"),
        _binary("activations and logits beside it", rest, "Llama-3.1-8B, batch 4, 2,048 tokens, recomputed"),
    ]  # fmt: skip
    told = (
        f"{low} bytes with a master copy, {high} with gradients summed in 32 bits; a traced step of Llama-3.1-8B has "
        f"{states:.1f}. Activations come on top."
    )
    return HOLDS, told, figures


def _seventy(claimed: float, each: int, others: tuple[int, ...]) -> tuple[list[Figure], float, int]:
    total = architecture_of("Llama-3.1-70B").total
    figures = [
        _bytes(f"at {n} bytes a parameter", total * n, f"{total:,} × {n}") for n in dict.fromkeys((each, *others))
    ]
    needed = claimed / total
    figures.append(_number("bytes a parameter that give the claim", needed, f"{decimal_text(claimed)} / {total:,}"))
    return figures, needed, total


def _seventy_large() -> Computed:
    figures, needed, _ = _seventy(1.2e12, 16, (18, 20))
    told = (
        f"It holds from {needed:.1f} bytes a parameter: 16 bytes give {figures[0].text}, 18 give {figures[1].text}, "
        f"20 give {figures[2].text}, activations not counted."
    )
    return (HOLDS if figures[0].value > 1.2e12 else HOLDS_IF), told, figures


def _seventy_small() -> Computed:
    figures, _, _ = _seventy(8e11, 12, (16,))
    off = figures[0].value / 8e11 - 1
    told = (
        f"Without a master copy, at 12 bytes a parameter, it is {figures[0].text}, {share_text(off)} more than "
        f"claimed; with one, {figures[1].text}. So claims 2 and 3 are both right, each under its assumptions."
    )
    return HOLDS_IF, told, figures


def _two_states() -> Computed:
    made, sizes = _made("Llama-3.1-8B", "full")
    table = architecture_of("Llama-3.1-8B")
    state = next(t.bytes for t in made.ledger(sizes).terms if t.name == "optimizer state")
    each = state / table.total
    eight = 2 + 2 * 4 / 256
    figures = [
        _number(
            "32-bit states a parameter",
            each / 4,
            f"traced: {state:,} bytes / {table.total:,} / 4",
            text=f"{each / 4:.2f}",
        ),
        _number("bytes of them in 32 bits", each, "2 × 4", text=f"{each:.2f}"),
        _number("bytes of them in 8 bits", eight, "2 × 1 + 2 × 4 / 256 for the scales"),
    ]
    told = f"Exactly two: {each:.2f} bytes a parameter in 32 bits; in 8 bits the two take {eight:.2f}."
    return (HOLDS if abs(each / 4 - 2) < 0.01 else OFF), told, figures


SIZES = ((8, "q_proj,v_proj"), (16, "all-linear"), (64, "all-linear"))


def _under_a_percent() -> Computed:
    shares: list[float] = []
    by_method: dict[str, list[float]] = {}
    for row in models():
        if not row.is_decoder:
            continue
        table = architecture_of(row.name)
        wanted: list[tuple[str, Any]] = [
            (name, m.Config()) for name, m in METHODS.items() if name not in ("full", "last_k")
        ]
        wanted += [("lora", METHODS["lora"].Config(rank=r, target_modules=t)) for r, t in SIZES]
        for name, settings in wanted:
            try:
                share = METHODS[name].count(table, settings) / table.total
            except Incompatible:
                continue
            shares.append(share)
            by_method.setdefault(name, []).append(share)
    tenth, one = (sum(s < limit for s in shares) / len(shares) for limit in (1e-3, 1e-2))
    lora = sorted(by_method["lora"])
    figures = [
        _share("of all pairs train under 0.1 %", tenth, f"{sum(s < 1e-3 for s in shares)} of {len(shares)}"),
        _share("of all pairs train under 1 %", one, f"{sum(s < 1e-2 for s in shares)} of {len(shares)}"),
        _share("least that LoRA trains", lora[0], "over the catalogue, ranks 8 to 64"),
        _share("most that LoRA trains", lora[-1], "over the catalogue, ranks 8 to 64"),
    ]
    told = (
        f"Of {len(shares)} pairs of a model and a method {share_text(tenth)} train under 0.1 %, and {share_text(one)} "
        f"under 1 %; LoRA alone ranges from {share_text(lora[0])} to {share_text(lora[-1])}."
    )
    return HOLDS_IF, told, figures


COMPARED = ("Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B")


def _cut() -> Computed:
    figures = []
    cuts: dict[str, list[float]] = {}
    for name in COMPARED:
        full = _process(name, "full")
        for method in ("lora", "qlora"):
            used = _process(name, method)
            cut = 1 - used / full
            cuts.setdefault(method, []).append(cut)
            figures.append(_share(f"{method} on {name}", cut, f"1 − {bytes_text(used)} / {bytes_text(full)}"))
    low, high = (share_text(f(cuts["lora"])) for f in (min, max))
    told = (
        f"QLoRA cuts {share_text(min(cuts['qlora']))} to {share_text(max(cuts['qlora']))}, more the larger the model; "
        f"LoRA in 16 bits {low} to {high}, because the frozen weights stay."
    )
    return HOLDS_IF, told, figures


# Bytes a parameter that a step takes at the very least, so that models which cannot fit are not asked for.
LEAST = {"full": 12.0, "lora": 2.0, "qlora": 0.5}


def _largest(method: str, usable: int) -> tuple[str, int, int] | None:
    """Name, parameters and likely bytes of the largest model whose likely total fits."""
    for row in sorted((r for r in models() if r.is_decoder), key=lambda r: -r.parameters):
        if row.parameters * LEAST[method] > usable:
            continue
        try:
            needed = _process(row.name, method)
        except NotFound:
            continue
        if needed <= usable:
            return row.name, row.parameters, needed
    return None


def _one_card() -> Computed:
    figures = []
    best: dict[str, str] = {}
    for card_name in ("RTX 3090", "RTX 4090"):
        card = gpu(card_name)
        for method in LEAST:
            found = _largest(method, card.usable_bytes)
            if found is None:
                continue
            name, parameters, needed = found
            best[method] = name
            formula = f"it takes about {bytes_text(needed)} of {bytes_text(card.usable_bytes)}"
            text = f"{name} ({count_text(parameters)})"
            figures.append(
                _number(f"largest model with {method} on an {card_name}", parameters, formula, "parameters", text)
            )
    limits = ", ".join(f"up to {name} with {method}" for method, name in best.items())
    return HOLDS_IF, f"It depends on the method: {limits}.", figures


def _checkpoints() -> Computed:
    total = architecture_of("Llama-3.1-70B").total
    one = total * DTYPE_BYTES["bfloat16"]
    ten, adapters = 10 * one, one + 10 * 100e6
    saved = 1 - adapters / ten
    figures = [
        _bytes("a checkpoint", one, f"{total:,} × 2 bytes"),
        _bytes("ten of them", ten, f"10 × {decimal_text(one)}"),
        _bytes("one base and ten adapters", adapters, f"{decimal_text(one)} + 10 × 100 MB"),
        _share("saved", saved, f"1 − {decimal_text(adapters)} / {decimal_text(ten)}"),
    ]
    told = (
        f"A checkpoint takes {figures[0].text}, ten take {figures[1].text}; base and adapters save {share_text(saved)}."
    )
    return (HOLDS if saved > 0.8 and abs(one / 140e9 - 1) < 0.02 else OFF), told, figures


GPT3 = (96, 12_288)
"""Layers and width of GPT-3 175B (Brown et al. 2020, table 2.1)."""


def _ten_thousand() -> Computed:
    layers, width, rank, total = *GPT3, 4, 175e9
    trained = layers * 2 * rank * 2 * width
    times = total / trained
    figures = [
        _number("trained", trained, f"{layers} layers × 2 matrices × {rank} × ({width:,} + {width:,})", "parameters",
                f"{trained:,}"),
        _number("fewer, times", times, f"175 billion / {trained:,}", "times", f"{times:,.0f} times"),
        _number("at rank 1 on one of the two, times", total / (trained / 8), "an eighth of the trained", "times",
                f"{total / (trained / 8):,.0f} times"),
    ]  # fmt: skip
    told = f"At rank 4 on queries and values {trained:,} train, {times:,.0f} times fewer: 10,000 is that, rounded."
    return HOLDS, told, figures


def _few_megabytes() -> Computed:
    table = architecture_of("Llama-3.1-8B")
    whole = table.total * DTYPE_BYTES["bfloat16"]
    figures = [_bytes("the model in 16 bits", whole, f"{table.total:,} × 2 bytes")]
    for rank, targets in SIZES:
        count = _lora(table, rank, targets)
        figures.append(_bytes(f"rank {rank}, {targets}", count * 4, f"{count:,} × 4 bytes"))
    told = (
        f"At rank 8 on queries and values the file has {figures[1].text}, at rank 16 on all linear layers "
        f"{figures[2].text}, at rank 64 {figures[3].text}; the model has {figures[0].text}. Saved in 16 bits, half."
    )
    return HOLDS_IF, told, figures


BIASED = ("BERT-base-uncased", "BERT-large-uncased", "RoBERTa-base", "GPT-2", "OPT-1.3B", "Qwen2.5-7B", "Llama-3.1-8B")


def _biases() -> Computed:
    figures = []
    for name in BIASED:
        table = architecture_of(name)
        count = sum(m.bias for m in table.modules)
        figures.append(_share(name, count / table.total, f"{count:,} of {table.total:,}"))
    told = "; ".join(f"{f.name} {f.text}" for f in figures if f.value)
    none = ", ".join(f.name for f in figures if not f.value)
    most = max(f.value for f in figures)
    return (HOLDS if most < 1e-3 else OFF), f"{told}. {none} has no bias to train.", figures


def _sixty_five() -> Computed:
    made, sizes = _made("LLaMA-1-65B", "qlora")
    ledger = made.ledger(sizes)
    found = totals(ledger.allocated_bytes, CARD)
    card = gpu("RTX A6000")
    figures = [_binary(t.name, t.bytes, t.formula) for t in ledger.terms if t.bytes > GIB / 10]
    figures.append(_binary("allocated at most", ledger.allocated_bytes, f"at {ledger.peak_at}"))
    figures.append(_binary("whole process, likely", found.process[1], "with the allocator's reserve and the context"))
    figures.append(_binary("usable on an RTX A6000", card.usable_bytes, card.usable_source))
    fits = found.process[1] <= card.usable_bytes
    told = (
        f"The process takes about {bytes_text(found.process[1])} (between {bytes_text(found.process[0])} and "
        f"{bytes_text(found.process[2])}) of the {bytes_text(card.usable_bytes)} that such a card has."
    )
    return (HOLDS if fits else OFF), told, figures


def _sixteen_bits() -> Computed:
    total = architecture_of("LLaMA-1-65B").total
    size = total * DTYPE_BYTES["bfloat16"]
    figure = _bytes("the weights", size, f"{total:,} × 2 bytes")
    return (HOLDS if size > 130e9 else OFF), f"{total:,} parameters at 2 bytes are {figure.text}.", [figure]


def _double() -> Computed:
    before, after = 32 / 64, 8 / 64 + 32 / (64 * 256)
    saved = before - after
    total = architecture_of("LLaMA-1-65B").total
    figures = [
        _number("bits a parameter before", before, "32 / 64", "bits"),
        _number("bits a parameter after", after, "8 / 64 + 32 / (64 × 256)", "bits"),
        _number("saved", saved, f"{before} − {after:.4f}", "bits"),
        _bytes("at 65B", total * saved / 8, f"{total:,} × {saved:.4f} / 8"),
    ]
    told = f"From {before} to {after:.3f} bits: {saved:.3f} saved, {figures[-1].text} at 65B."
    return (HOLDS if abs(saved - 0.37) < 0.01 else OFF), told, figures


def _cluster() -> Computed:
    made, sizes = _made("Llama-2-7B", "full")
    table = architecture_of("Llama-2-7B")
    card = gpu("A100 80 GB SXM")
    figures = []
    least: int | None = None
    for count in (1, 2, 4, 8):
        for zero in (0, 1, 2, 3) if count > 1 else (0,):
            one = made.shared(sizes, Sharding(count, zero), table)
            needed = totals(one.allocated_bytes, CARD).process[1]
            what = f"{count} GPU{'s' if count > 1 else ''}" + (f", ZeRO-{zero}" if count > 1 else "")
            figures.append(
                _binary(what, needed, "; ".join(f"{t.name} {bytes_text(t.bytes)}" for t in one.terms if t.bytes > GIB))
            )
            if needed <= card.usable_bytes and (least is None or count < least):
                least = count
    fewest = f"{least} such cards are enough" if least and least > 1 else "one such card is enough"
    told = (
        f"With 32-bit weights and states one card would need {figures[0].text}, so {fewest} ({card.name}, "
        f"{bytes_text(card.usable_bytes)} usable). In 16 bits, with an 8-bit paged optimizer that steps inside the "
        f"backward pass, torchtune reports 18.9 GiB for 8B: then one card of 24 GB does it."
    )
    return HOLDS_IF, told, figures


def _prices() -> Computed:
    rows = tomllib.loads((FOLDER / "prices.toml").read_text(encoding="utf-8"))["price"]
    known = {row.name: row for row in gpus()}
    figures = []
    for row in rows:
        card = known[row["gpu"]]
        note = f"{row['source']}, {row['date']}" + ("" if row["checked"] else "; not checked")
        figures.append(_number(row["gpu"], row["usd"], note, "USD", f"${row['usd']:,}"))
        each = row["usd"] / card.memory_gb
        figures.append(_number(f"{row['gpu']}, a GB of memory", each, f"${row['usd']:,} / {card.memory_gb:g} GB", "USD",
                               f"${each:,.0f}"))  # fmt: skip
    dear, cheap = (next(r["usd"] for r in rows if r["gpu"] == name) for name in ("H100 SXM", "RTX 4090"))
    told = (
        f"By these inputs an H100 costs {dear / cheap:.0f} times an RTX 4090, and a GB of its memory "
        f"{(dear / known['H100 SXM'].memory_gb) / (cheap / known['RTX 4090'].memory_gb):.1f} times as much. Enter what "
        f"you would pay: NVIDIA prints no price for the large ones."
    )
    return HOLDS_IF, told, figures


_COMPUTE: dict[int, Callable[[], Computed]] = {
    1: _bytes_a_parameter, 2: _seventy_large, 3: _seventy_small, 4: _two_states, 5: _under_a_percent, 6: _cut,
    7: _one_card, 8: _checkpoints, 9: _ten_thousand, 12: _few_megabytes, 14: _biases, 15: _sixty_five,
    16: _sixteen_bits, 17: _double, 24: _cluster, 25: _prices,
}  # fmt: skip


@lru_cache
def _written() -> tuple[Mapping[str, Any], ...]:
    return tuple(tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"])


@lru_cache
def references() -> Mapping[str, Mapping[str, Any]]:
    """All papers and pages, by key."""
    return tomllib.loads((FOLDER / "references.toml").read_text(encoding="utf-8"))


@lru_cache
def claim(number: int) -> Claim:
    """A claim, computed.

    Raises:
        NotFound: there is none of that number.
    """
    row = next((r for r in _written() if r["number"] == number), None)
    if row is None:
        known = ", ".join(str(r["number"]) for r in _written())
        raise NotFound(f"There is no claim number {number}.", f"There are {known}.")
    verdict, told, figures = _COMPUTE[number]()
    named = tuple(Reference(key, where=where, **references()[key]) for key, where in row["references"])
    return Claim(number, row["topic"], row["text"], tuple(row["assumptions"]), named, tuple(figures), verdict, told)


def claims() -> tuple[Claim, ...]:
    """All claims, in the order of their numbers."""
    return tuple(claim(int(row["number"])) for row in _written())


__all__ = [
    "HOLDS",
    "HOLDS_IF",
    "OFF",
    "TOPICS",
    "Claim",
    "Figure",
    "Reference",
    "claim",
    "claims",
    "decimal_text",
    "references",
]
