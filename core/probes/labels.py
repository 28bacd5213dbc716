"""What fine-tuning did to each label's probability: a classifier's part of the probe `tokens`.

    p(label | text), q(label | text)      softmax over the head's outputs, before and after
    KL(q‖p) = Σ_label q·ln(q/p)           nats: how far the distribution moved on that text

Before means the encoder with its head as it began: one that the run's seed drew knows nothing of the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.errors import Refused

if TYPE_CHECKING:
    import torch

    from core.classify import EncodedText
    from core.probes import Tell
    from core.probes.tokens import Config
    from core.probes.trained import Trained


def label_logits_of(trained: Trained, row: EncodedText) -> torch.Tensor:
    """The head's outputs for one text, (labels,), float64, on the CPU."""
    from core.classify import label_logits, stack
    from core.evaluate import evaluating
    from core.template import pad_id

    batch = stack([row], pad_id(trained.tokenizer)).to(trained.device)
    with evaluating(trained.model), trained.autocast():
        return label_logits(trained.model, batch)[0].cpu().double()


def read(trained: Trained, row: EncodedText, text: str, wanted: str | None, most: int) -> dict[str, Any]:
    """One text, by the model as it began and as it is now.

    Args:
        wanted: its label; None where nobody knows it: then it is what the trained model gives.
        most: of each side's likeliest labels so many are listed, and the wanted one.

    Returns:
        {"prompt": the text, "answer": the label, "labels": [{"text": a label, "before": {"p", "rank"}, "after":
        likewise}] in the order of the head's outputs, "log_before", "log_after": ln of the answer's probability,
        "left_out": labels that are not listed, "kl": nats}
    """
    from core.base import labels_of
    from core.probes.tokens import compared

    names = labels_of(trained.model)
    trained.attached.disable()
    before = label_logits_of(trained, row)
    trained.attached.enable()
    after = label_logits_of(trained, row)
    given = names.index(wanted) if wanted is not None else int(after.argmax())
    # A label is to its head what a token is to a vocabulary: the same sums, at one place, for each of them.
    every = range(len(names))
    rows = compared(before.expand(len(names), -1), after.expand(len(names), -1), list(every), 1)
    likeliest = {i for side in (before, after) for i in side.topk(min(most, len(names))).indices.tolist()}
    shown = [i for i in every if i in likeliest | {given}]
    return {
        "prompt": text,
        "answer": names[given],
        "labels": [{"text": names[i], "before": rows[i]["before"], "after": rows[i]["after"]} for i in shown],
        "left_out": len(names) - len(shown),
        "log_before": float(before.log_softmax(0)[given]),
        "log_after": float(after.log_softmax(0)[given]),
        "kl": rows[given]["kl"],
    }


def measure(trained: Trained, config: Config, tell: Tell) -> dict[str, Any]:
    """The labels' probabilities on held-out texts, or on a typed one.

    Returns:
        {"typed", "base": what "before" is, "items": see `read`}

    Raises:
        BadInput: a text too long for the model. Refused: the run held nothing out.
    """
    from core.classify import encoded

    held_out: Any = trained.objective
    typed = config.prompt.strip()
    if typed:
        asked = [(encoded(trained.model, trained.tokenizer, typed), typed, None)]
    else:
        rows = list(zip(held_out.held_out_rows, held_out.shown, strict=True))[: config.items]
        asked = [(row, text, held_out.labels[row.label]) for row, text in rows]
    if not asked:
        raise Refused("This run kept nothing back that could be read.", "Type a text of your own.")
    found: list[dict[str, Any]] = []
    for row, text, wanted in asked:
        tell(len(found) / len(asked), f"Reading text {len(found) + 1} of {len(asked)}")
        found.append(read(trained, row, text, wanted, config.alternatives))
    return {"typed": bool(typed), "base": "the encoder with its head as it began", "items": found}
