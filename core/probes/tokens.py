"""What fine-tuning did to each token's probability: the base and the trained model read the same answer.

At each place t of an answer y₁ … y_T to a prompt x, with p the base's distribution over the vocabulary and q the
trained model's, both given x and y₁ … y_{t−1} (the answer as it is, not as either would have written it):

    p(y_t), q(y_t)             probability, and rank: 1 + the number of likelier tokens
    KL(q‖p) = Σ_v q(v)·ln(q(v)/p(v))      nats: how far the distribution moved at that place (Kullback and Leibler 1951)

and the tokens that were likeliest before, with what became of them. Sums over the places: ln p(y|x) before and after.

The answer is a held-out item's reference; of a prompt that somebody typed, it is what the trained model answers now.
A classifier has labels instead of tokens: core/probes/labels.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput, Refused

if TYPE_CHECKING:
    import torch

    from core.evaluate import Item
    from core.probes import Subject, Tell
    from core.probes.trained import Trained

TITLE = "Token probabilities"
RUNS = (1, 1)
LONGEST_PROMPT = 4000  # characters
NEW_TOKENS = 64
LEAST = -745.0  # ln of the smallest number above 0 that float64 holds


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    prompt: str = knob("", "A prompt of your own; empty: held-out items of the run.", why="What the run is scored by.")
    items: int = knob(
        3, "How many held-out items are read.", unit="items", low=1, high=50, why="Enough to see a pattern."
    )
    alternatives: int = knob(
        4, "Likeliest tokens before and after that are listed at each place.", unit="tokens", low=1, high=20,
        why="The rest of the vocabulary seldom has more than a few per cent.",
    )  # fmt: skip


def answer_logits(trained: Trained, ids: list[int], start: int) -> torch.Tensor:
    """Logits at the places that predict ids[start:], (len(ids) − start, vocabulary), float64, on the CPU."""
    import torch

    from core.evaluate import evaluating

    tokens = torch.tensor([ids], device=trained.device)
    with evaluating(trained.model), trained.autocast():
        logits = trained.model(input_ids=tokens, use_cache=False).logits[0]
    return logits[start - 1 : len(ids) - 1].float().cpu().double()


def compared(before: torch.Tensor, after: torch.Tensor, answer: list[int], alternatives: int) -> list[dict[str, Any]]:
    """What the module docstring names, place by place.

    Args:
        before, after: logits, (T, vocabulary). answer: the T tokens that stand there.

    Returns:
        per place {"id", "before": {"p", "rank"}, "after": likewise, "kl": nats, "likeliest_before": [[token, p before,
        p after]], "likeliest_after": likewise, the likeliest first}
    """
    import torch

    # A logit of −∞ (a token that a model rules out) would make the sum undefined; e^LEAST is the smallest float64.
    log_p, log_q = (torch.log_softmax(logits, dim=-1).clamp_min(LEAST) for logits in (before, after))
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    out = []
    for place, token in enumerate(answer):
        p, q = log_p[place], log_q[place]
        row: dict[str, Any] = {"id": token, "kl": max(0.0, float(kl[place]))}
        for side, values in (("before", p), ("after", q)):
            row[side] = {"p": float(values[token].exp()), "rank": 1 + int((values > values[token]).sum())}
            best = torch.topk(values, min(alternatives, len(values))).indices.tolist()
            row[f"likeliest_{side}"] = [[t, float(p[t].exp()), float(q[t].exp())] for t in best]
        out.append(row)
    return out


def read(trained: Trained, item: Item, config: Config) -> dict[str, Any]:
    """One prompt and answer, by the base and by the trained model.

    Returns:
        {"prompt", "answer", "tokens": see `compared`, with texts; "log_before", "log_after": ln of the whole answer's
        probability, "first_before", "first_after": places at which the answer's token was the likeliest, "kl": summed}
    """
    from core.batches import IGNORED
    from core.template import Dialogue, Message, encode, prompt_ids, token_texts

    encoded = encode(trained.tokenizer, Dialogue((*item.messages, Message("assistant", item.reference))))
    end = max(place for place, label in enumerate(encoded.labels) if label != IGNORED) + 1
    ids, start = encoded.ids[:end], len(prompt_ids(trained.tokenizer, item.messages))
    trained.attached.disable()
    before = answer_logits(trained, ids, start)
    trained.attached.enable()
    after = answer_logits(trained, ids, start)
    rows = compared(before, after, ids[start:], config.alternatives)
    names = trained.tokenizer.convert_ids_to_tokens
    texts = token_texts(trained.tokenizer, ids)[start:]

    def spoken(token: int) -> str:
        return token_texts(trained.tokenizer, [token])[0] or str(names(token))

    for row, text in zip(rows, texts, strict=True):
        row["text"] = text or str(names(row["id"]))
        for side in ("likeliest_before", "likeliest_after"):
            row[side] = [[spoken(t), p, q] for t, p, q in row[side]]
    return {
        "prompt": item.messages[-1].content,
        "answer": item.reference,
        "tokens": rows,
        "log_before": math.fsum(_log(row["before"]["p"]) for row in rows),
        "log_after": math.fsum(_log(row["after"]["p"]) for row in rows),
        "first_before": sum(row["before"]["rank"] == 1 for row in rows),
        "first_after": sum(row["after"]["rank"] == 1 for row in rows),
        "kl": math.fsum(row["kl"] for row in rows),
    }


def _log(p: float) -> float:
    return math.log(p) if p > 0 else LEAST


def typed(trained: Trained, prompt: str) -> Item:
    """A typed prompt, with what the trained model answers to it."""
    from core.evaluate import Item, generate
    from core.template import Message

    messages = (Message("user", prompt),)
    with trained.autocast():
        (answer,) = generate(trained.model, trained.tokenizer, [messages], NEW_TOKENS)
    return Item(messages, answer, lambda _: True)


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Probabilities before and after, of held-out items or of a typed prompt.

    Returns:
        {"typed": whether the prompt was typed, "base": what "before" is, "items": see `read`; of a classifier see
        core.probes.labels}

    Raises:
        BadInput: a prompt too long for the model. Refused: the run held nothing out.
    """
    from core.base import is_classifier
    from core.methods import METHODS
    from core.probes import labels
    from core.probes.trained import load

    prompt = config.prompt.strip()
    if len(prompt) > LONGEST_PROMPT:
        raise BadInput(
            f"The prompt has {len(prompt)} characters; {LONGEST_PROMPT} are the most.", "Shorten the prompt."
        )
    trained = load(subject.runs[0], tell)
    if is_classifier(trained.model):
        return labels.measure(trained, config, tell)
    held_out: Any = trained.objective
    items = [typed(trained, prompt)] if prompt else held_out.items[: config.items]
    if not items:
        raise Refused("This run kept nothing back that could be read.", "Type a prompt of your own.")
    found: list[dict[str, Any]] = []
    for item in items:
        tell(len(found) / len(items), f"Reading item {len(found) + 1} of {len(items)}")
        found.append(read(trained, item, config))
    quantized = METHODS[trained.config.method].BASE == "quantized" or trained.base.facts["few_bits"]
    return {"typed": bool(prompt), "base": "the base in few bits" if quantized else "the base", "items": found}
