"""Which fine-tuning method, by what fits: the calculator's estimate of a step on the card that is at hand.

Of full fine-tuning (only where all weights are to move), LoRA and QLoRA the first whose step fits is taken. The
estimate is the VRAM calculator's own (core.memory), at the batch and length named here, and the link leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.guide.decide import DEEP, Decision
from core.guide.rules import Answers
from core.units import bytes_text

BATCH, LENGTH = 1, 1024
MODELS = {"small": "Llama-3.2-1B", "medium": "Llama-3.1-8B", "large": "Qwen3-14B", "huge": "Llama-3.1-70B"}
"""A representative of each size, from core/catalog/models.toml."""
CARDS = {
    "gpu8": "RTX 4060",
    "gpu16": "RTX 4060 Ti 16 GB",
    "gpu24": "RTX 4090",
    "gpu48": "RTX A6000",
    "gpu80": "A100 80 GB SXM",
    "several": "A100 80 GB SXM",
}


@dataclass(frozen=True)
class Choice:
    """method: a name in METHODS, or "" if nothing fits. because: a sentence with the estimate. model, gpu: of the
    catalogue, as the calculator's link takes them; gpu "" for a CPU."""

    method: str
    because: str
    model: str
    gpu: str


def choose(decision: Decision, answers: Answers) -> Choice | None:
    """The method for a recommendation that trains; None for one that does not.

    Without an answer about the model it is the medium one; without one about the hardware, the smallest card on which
    something fits is named.
    """
    if not decision.tunes:
        return None
    model = MODELS[answers.get("model", "medium")]
    hardware = answers.get("hardware")
    if hardware == "cpu":
        return Choice(
            "lora",
            f"A CPU trains the embedded base in seconds; {model} on it takes days. Try the recipe here, then rent a "
            "card.",
            model, "",
        )  # fmt: skip
    methods = ("full", "lora", "qlora") if decision.approach == DEEP else ("lora", "qlora")
    cards = [CARDS[hardware]] if hardware in CARDS else list(dict.fromkeys(CARDS.values()))
    for card in cards:
        for method in methods:
            text = _fit(model, method, card)
            if text is not None:
                return Choice(method, _because(method, model, card, text, hardware), model, card)
    if hardware == "several":
        return Choice(
            methods[0],
            f"One {cards[0]} does not hold a step on {model}; several do, if the weights are divided among them "
            "(FSDP or ZeRO-3).",
            model, cards[0],
        )  # fmt: skip
    return Choice(
        "", f"Not even 4-bit weights of {model} fit on {cards[-1]} with a step beside them. Take a smaller model.",
        model, cards[-1],
    )  # fmt: skip


def _because(method: str, model: str, card: str, text: str, hardware: str | None) -> str:
    what = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA, on weights in 4 bits,"}[method]
    ahead = "" if hardware else "Nothing is said about hardware. "
    return f"{ahead}{what} of {model} takes about {text} on {card} (a row of {LENGTH:,} tokens a step), and it fits."


def _fit(model: str, method: str, card_name: str) -> str | None:
    """What a step takes, if that fits on the card for certain or probably; else None."""
    from core.catalog import gpu
    from core.config import RunConfig
    from core.memory.card import totals
    from core.memory.estimate import Sizes, find
    from core.memory.setup import Device, Setup

    card = gpu(card_name)
    device = Device.of(card.capability or "8.0")
    setup = Setup.of(RunConfig(method=method), BATCH, LENGTH, device)
    made = find(model, setup)
    if made is None:
        return None
    found = totals(made.ledger(Sizes.of(setup)).allocated_bytes, device)
    return bytes_text(found.process[1]) if found.process[1] <= card.usable_bytes else None
