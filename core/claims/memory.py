"""Claims on memory: bytes a parameter, optimizer states, what PEFT and quantization save. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from core.catalog import architecture_of, gpu
from core.claims.figures import (
    CARD,
    Computed,
    Figure,
    binary,
    decimal_text,
    made,
    near,
    number,
    process,
    share,
    share_text,
    sized,
)
from core.memory.card import totals
from core.memory.estimate import Sizes
from core.units import DTYPE_BYTES, GIB, bytes_text

STATES = (
    ("16-bit weight", 2),
    ("16-bit gradient", 2),
    ("32-bit master copy", 4),
    ("Adam's mean", 4),
    ("of squares", 4),
)
COMPARED = ("Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B")
EIGHT_BIT_STATES = 2 + 2 * 4 / 256  # bytes a parameter: two states of a byte, and a 32-bit scale for each 256 of either


def bytes_a_parameter() -> Computed:
    """1: training takes 16 to 20 bytes a parameter."""
    low = sum(size for _, size in STATES)
    high = low + 4
    surrogate, sizes = made("Llama-3.1-8B", "full")
    total = architecture_of("Llama-3.1-8B").total
    own = {t.name: t.bytes / total for t in surrogate.ledger(sizes).terms}
    states = own["trained weights"] + own["optimizer state"] + 4  # a gradient each, whether or not all live at the peak
    rest = sum(t.bytes for t in surrogate.ledger(Sizes(4, 2048)).terms if t.name in ("activations", "logits and loss"))
    figures = [
        number("mixed precision with a master copy", low, " + ".join(f"{s} ({n})" for n, s in STATES)),
        number("and gradients summed in 32 bits", high, f"{low} + 4"),
        number("Deltalab: 32-bit weights, 16-bit passes", round(states, 2),
               "traced on Llama-3.1-8B: weights + optimizer state + 4 for a gradient", text=f"{states:.1f}"),
        binary("activations and logits beside it", rest, "Llama-3.1-8B, batch 4, 2,048 tokens, recomputed"),
    ]  # fmt: skip
    told = (
        f"{low} bytes with a master copy, {high} with gradients summed in 32 bits; a traced step of Llama-3.1-8B has "
        f"{states:.1f}. Activations come on top."
    )
    return [16 <= round(each, 1) <= 20 for each in (low, high, states)], told, figures


def _seventy(claimed: float, each: tuple[int, ...]) -> tuple[list[Figure], float]:
    """Sizes at so many bytes a parameter, and how many bytes give the claim."""
    total = architecture_of("Llama-3.1-70B").total
    figures = [sized(f"at {n} bytes a parameter", total * n, f"{total:,} × {n}") for n in each]
    needed = claimed / total
    figures.append(number("bytes a parameter that give the claim", needed, f"{decimal_text(claimed)} / {total:,}"))
    return figures, needed


def seventy_large() -> Computed:
    """2: full fine-tuning of a 70B model needs over 1.2 TB."""
    figures, needed = _seventy(1.2e12, (16, 18, 20))
    told = (
        f"It holds from {needed:.1f} bytes a parameter: 16 bytes give {figures[0].text}, 18 give {figures[1].text}, "
        f"20 give {figures[2].text}, activations not counted."
    )
    return [f.value > 1.2e12 for f in figures[:3]], told, figures


def seventy_small() -> Computed:
    """3: the same takes about 800 GB."""
    figures, _ = _seventy(8e11, (12, 16))
    off = figures[0].value / 8e11 - 1
    told = (
        f"Without a master copy, at 12 bytes a parameter, it is {figures[0].text}, {share_text(off)} more than "
        f"claimed; with one, {figures[1].text}. So claims 2 and 3 are both right, each under its assumptions."
    )
    return [near(f.value, 8e11, 0.1) for f in figures[:2]], told, figures


def two_states() -> Computed:
    """4: Adam keeps two extra states for each parameter."""
    surrogate, sizes = made("Llama-3.1-8B", "full")
    table = architecture_of("Llama-3.1-8B")
    state = next(t.bytes for t in surrogate.ledger(sizes).terms if t.name == "optimizer state")
    each = state / table.total
    figures = [
        number("32-bit states a parameter", each / 4, f"traced: {state:,} bytes / {table.total:,} / 4",
               text=f"{each / 4:.2f}"),
        number("bytes of them in 32 bits", each, "2 × 4", text=f"{each:.2f}"),
        number("bytes of them in 8 bits", EIGHT_BIT_STATES, "2 × 1 + 2 × 4 / 256 for the scales"),
    ]  # fmt: skip
    told = f"Exactly two: {each:.2f} bytes a parameter in 32 bits; in 8 bits the two take {EIGHT_BIT_STATES:.2f}."
    return [abs(each / 4 - 2) < 0.01], told, figures


def cut() -> Computed:
    """6: PEFT cuts the memory by 90 to 95 %."""
    figures = []
    cuts: dict[str, list[float]] = {}
    for name in COMPARED:
        full = process(name, "full")
        for method in ("lora", "qlora"):
            used = process(name, method)
            saved = 1 - used / full
            cuts.setdefault(method, []).append(saved)
            figures.append(share(f"{method} on {name}", saved, f"1 − {bytes_text(used)} / {bytes_text(full)}"))
    low, high = (share_text(f(cuts["lora"])) for f in (min, max))
    told = (
        f"QLoRA cuts {share_text(min(cuts['qlora']))} to {share_text(max(cuts['qlora']))}, more the larger the model; "
        f"LoRA in 16 bits {low} to {high}, because the frozen weights stay."
    )
    return [saved >= 0.9 for found in cuts.values() for saved in found], told, figures


def sixty_five() -> Computed:
    """15: QLoRA trains a model of 65B on one card of 48 GB."""
    surrogate, sizes = made("LLaMA-1-65B", "qlora")
    ledger = surrogate.ledger(sizes)
    found = totals(ledger.allocated_bytes, CARD)
    card = gpu("RTX A6000")
    figures = [binary(t.name, t.bytes, t.formula) for t in ledger.terms if t.bytes > GIB / 10]
    figures.append(binary("allocated at most", ledger.allocated_bytes, f"at {ledger.peak_at}"))
    figures.append(binary("whole process, likely", found.process[1], "with the allocator's reserve and the context"))
    figures.append(binary("usable on an RTX A6000", card.usable_bytes, card.usable_source))
    told = (
        f"The process takes about {bytes_text(found.process[1])} (between {bytes_text(found.process[0])} and "
        f"{bytes_text(found.process[2])}) of the {bytes_text(card.usable_bytes)} that such a card has."
    )
    return [found.process[1] <= card.usable_bytes], told, figures


def sixteen_bits() -> Computed:
    """16: loading a 65B model in 16 bits takes over 130 GB."""
    total = architecture_of("LLaMA-1-65B").total
    size = total * DTYPE_BYTES["bfloat16"]
    figure = sized("the weights", size, f"{total:,} × 2 bytes")
    return [size > 130e9], f"{total:,} parameters at 2 bytes are {figure.text}.", [figure]


def double() -> Computed:
    """17: double quantization saves about 0.37 bits a parameter, 3 GB at 65B."""
    before, after = 32 / 64, 8 / 64 + 32 / (64 * 256)
    saved = before - after
    total = architecture_of("LLaMA-1-65B").total
    figures = [
        number("bits a parameter before", before, "32 / 64", "bits"),
        number("bits a parameter after", after, "8 / 64 + 32 / (64 × 256)", "bits"),
        number("saved", saved, f"{before} − {after:.4f}", "bits"),
        sized("at 65B", total * saved / 8, f"{total:,} × {saved:.4f} / 8"),
    ]
    told = f"From {before} to {after:.3f} bits: {saved:.3f} saved, {figures[-1].text} at 65B."
    return [near(saved, 0.37, 0.02), near(figures[-1].value, 3e9, 0.1)], told, figures


def paged() -> Computed:
    """19: paged optimizers move their state to the CPU's memory when the GPU is full."""
    total = architecture_of("Llama-2-7B").total
    whole, eight = total * 8, total * EIGHT_BIT_STATES
    needed = process("Llama-2-7B", "full")
    figures = [
        sized("32-bit states of a 7B model", whole, f"{total:,} × 2 × 4"),
        sized("8-bit states", eight, f"{total:,} × {EIGHT_BIT_STATES:.4g}"),
        share("of a whole step's memory, in 32 bits", whole / needed, f"{bytes_text(whole)} / {bytes_text(needed)}"),
    ]
    told = (
        f"What may move are the states: {figures[0].text} of a 7B model in 32 bits, {figures[2].text} of a step's "
        f"memory, or {figures[1].text} in 8 bits. Whether and when they do is the driver's (unified memory), and only "
        "a GPU can show it: on a CPU the paged optimizers are the ordinary ones. Not measured here."
    )
    return [None], told, figures


COMPUTE: dict[int, Callable[[], Computed]] = {
    1: bytes_a_parameter, 2: seventy_large, 3: seventy_small, 4: two_states, 6: cut, 15: sixty_five, 16: sixteen_bits,
    17: double, 19: paged,
}  # fmt: skip
