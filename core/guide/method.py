"""Which fine-tuning method, by what fits: the calculator's estimate of a step on the card that is at hand.

Continued pre-training moves all weights, so for it there is full fine-tuning or nothing; else LoRA is taken, and QLoRA
where that does not fit. Several cards share a step by ZeRO-3 (FSDP), as few of them as hold it. Where nothing fits on
the cards of one machine, all is tried once more with activations recomputed (gradient checkpointing), before more
machines are taken. The estimate is the VRAM calculator's own
(core.memory), at the batch and length named here, and the link leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


SHARED = (2, 4, 8, 16, 32, 64)
"""Numbers of cards that are tried, one after the other."""
ZERO = 3  # the stage of ZeRO that divides weights, gradients and optimizer state
NODE = 8  # cards in one machine, about: LoRA is shared among so many before the base is quantized
CPU = "cpu"  # as the calculator's page and command name it
TITLES = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA, on weights in 4 bits,"}


@dataclass(frozen=True)
class Choice:
    """method: a name in METHODS, or "" if nothing fits. because: a sentence with the estimate. tried: the method that
    the calculator is to show. model, gpu: of the catalogue, as the calculator takes them. gpus: how many share a step.
    recomputed: with gradient checkpointing.
    """

    method: str
    because: str
    tried: str
    model: str
    gpu: str
    gpus: int = 1
    recomputed: bool = False


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
            "lora", model, CPU,
        )  # fmt: skip
    deep = decision.approach == DEEP
    cards = [CARDS[hardware]] if hardware in CARDS else list(dict.fromkeys(CARDS.values()))
    tries = _tries(cards, deep=deep, several=hardware == "several", known=hardware is not None)
    near, far = ([one for one in tries if (one[2] <= NODE) is within] for within in (True, False))
    ordered = [(one, False) for one in near] + [(one, True) for one in near]
    for (method, card, gpus), recomputed in ordered + [(one, again) for one in far for again in (False, True)]:
        taken = _fit(model, method, card, gpus, recomputed)
        if taken is not None:
            choice = Choice(method, "", method, model, card, gpus, recomputed)
            return replace(choice, because=_because(choice, taken, hardware))
    return _none_fits(model, cards[-1], deep=deep)


def _tries(cards: list[str], *, deep: bool, several: bool, known: bool) -> list[tuple[str, str, int]]:
    """(method, card, how many) in the order of preference."""
    methods = ("full",) if deep else ("lora", "qlora")
    if not several:
        alone = [(method, card, 1) for card in cards for method in methods]
        return alone if known else alone + [(methods[0], cards[-1], gpus) for gpus in SHARED]
    (card,) = cards
    shared = [(methods[0], card, gpus) for gpus in SHARED]
    if deep:
        return [("full", card, 1), *shared]
    near = [one for one in shared if one[2] <= NODE]
    return [("lora", card, 1), *near, ("qlora", card, 1), *(one for one in shared if one not in near)]


def _because(choice: Choice, taken: int, hardware: str | None) -> str:
    ahead = "" if hardware else "Nothing is said about hardware. "
    title, model, card = TITLES[choice.method], choice.model, choice.gpu
    how = f"rows of {LENGTH:,} tokens, {BATCH} a step{', activations recomputed' if choice.recomputed else ''}"
    if choice.gpus == 1:
        return f"{ahead}{title} of {model} takes about {bytes_text(taken)} on {card} ({how}), and it fits."
    return (
        f"{ahead}{title} of {model} does not fit on one {card}. Shared among {choice.gpus} of them by ZeRO-3 (FSDP) it "
        f"takes about {bytes_text(taken)} on each ({how}), and it fits. (Several cards are worked out, not measured.)"
    )


def _none_fits(model: str, card: str, *, deep: bool) -> Choice:
    """Nothing fits: what does not, by how much, and what would."""
    if not deep:
        return Choice(
            "", f"Not even 4-bit weights of {model} fit on {card} with a step beside them. Take a smaller model.",
            "qlora", model, card, recomputed=True,
        )  # fmt: skip
    smaller = [name for name in MODELS.values() if _fit(name, "full", card, 1, True) is not None]
    shared = next((gpus for gpus in SHARED if _fit(model, "full", card, gpus, True) is not None), None)
    ways = [f"{shared} such cards hold it, sharing it by ZeRO-3 (FSDP)"] if shared else []
    ways += [f"{smaller[-1]} fits on one"] if smaller else []
    needed = _taken(model, "full", card, 1, True)
    takes = f"takes about {bytes_text(needed)}" if needed is not None else "does not fit"
    return Choice(
        "",
        f"Continued pre-training moves all weights, and a step on {model} {takes}, activations recomputed: more than "
        f"{card} has. {'; '.join(ways)}{'. ' if ways else ''}LoRA would fit sooner, and learns less of a new language.",
        "full", model, card, recomputed=True,
    )  # fmt: skip


def _fit(model: str, method: str, card_name: str, gpus: int, recomputed: bool) -> int | None:
    """Bytes that a step takes on each card, if they fit for certain or probably; else None."""
    from core.catalog import gpu

    taken = _taken(model, method, card_name, gpus, recomputed)
    return taken if taken is not None and taken <= gpu(card_name).usable_bytes else None


def _taken(model: str, method: str, card_name: str, gpus: int, recomputed: bool) -> int | None:
    """Bytes that a step takes on each card, as nvidia-smi would say; None where nobody traced it."""
    from core.catalog import architecture_of, gpu
    from core.config import RunConfig, TrainConfig
    from core.memory.card import totals
    from core.memory.estimate import Sizes, find
    from core.memory.setup import Device, Setup
    from core.memory.sharded import Sharding

    device = Device.of(gpu(card_name).capability or "8.0")
    config = RunConfig(method=method, train=TrainConfig(gradient_checkpointing=recomputed))
    setup = Setup.of(config, BATCH, LENGTH, device)
    made = find(model, setup)
    if made is None:
        return None
    sizes = Sizes.of(setup)
    if gpus == 1:
        ledger = made.ledger(sizes)
    else:
        ledger = made.shared(sizes, Sharding(gpus, zero=ZERO), architecture_of(model))
    return totals(ledger.allocated_bytes, device).process[1]
