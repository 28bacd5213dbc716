"""Sequence classification on an encoder: a label for each text, the setting in which BitFit was published.

    p(label | text) = softmax(head(encoder(text)))        loss: −log p(the row's label), the mean over examples

How it works: each text (or pair of texts) goes through the encoder with the special tokens that its tokenizer sets, and
the head reads off one vector. Batches are padded on the right under an attention mask, because an encoder looks both
ways. Scores are accuracy and the macro F1, both of the likeliest label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.base import READS_PAIRS, Base, context_tokens, labels_of
from core.batches import IGNORED
from core.config import RunConfig
from core.distributed import ALONE, World
from core.errors import BadInput
from core.evaluate import evaluating
from core.labelled import LabelledText, read_labelled, split_labelled, tokens_of
from core.objective import SAMPLES, Scores, first_held_out, fitting
from core.template import pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedText:
    """A text as tokens. ids: token ids; types: which text of a pair each belongs to; label: the number of its label."""

    ids: list[int]
    types: list[int]
    label: int


@dataclass(frozen=True)
class TextBatch:
    """ids, types, mask: (texts, tokens), padded on the right; labels: (texts,), numbers of labels, or IGNORED."""

    ids: torch.Tensor
    types: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    @property
    def count(self) -> int:
        """How many labels the loss is summed over."""
        return int((self.labels != IGNORED).sum())

    def part(self, rank: int, size: int) -> TextBatch:
        """The texts of one of `size` processes; if none is left, one without a label: see `core.batches.Batch.part`."""
        own = TextBatch(*(t[rank::size] for t in (self.ids, self.types, self.mask, self.labels)))
        if len(own.labels):
            return own
        return TextBatch(self.ids[:1], self.types[:1], self.mask[:1], torch.full_like(self.labels[:1], IGNORED))

    def to(self, device: torch.device) -> TextBatch:
        """The same on another device."""
        return TextBatch(*(t.to(device) for t in (self.ids, self.types, self.mask, self.labels)))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[LabelledText], labels: Sequence[str]
) -> list[EncodedText]:
    """Labelled texts as tokens; a label's number is its place in `labels`."""
    number = {label: i for i, label in enumerate(labels)}
    tokens = tokens_of(tokenizer, examples)
    return [EncodedText(ids, types, number[e.label]) for e, (ids, types) in zip(examples, tokens, strict=True)]


def stack(rows: Sequence[EncodedText], pad: int) -> TextBatch:
    """Pad on the right to the longest, and stack."""
    longest = max(len(r.ids) for r in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        types[i, : len(row.types)] = torch.tensor(row.types)
        mask[i, : len(row.ids)] = 1
    return TextBatch(ids, types, mask, torch.tensor([row.label for row in rows]))


def label_logits(model: Any, batch: TextBatch) -> torch.Tensor:
    """(texts, labels), float32. Encoders that tell no two kinds of text apart are not told which is which."""
    types = {"token_type_ids": batch.types} if (getattr(model.config, "type_vocab_size", 0) or 0) > 1 else {}
    logits: torch.Tensor = model(input_ids=batch.ids, attention_mask=batch.mask, **types).logits
    return logits.float()


def macro_f1(wanted: Sequence[int], given: Sequence[int]) -> float:
    """The mean, over the labels that are wanted or given anywhere, of F1 = 2·right / (wanted + given), 0..1.

    Every label weighs the same, however rare: always giving the most frequent one scores badly here.
    """
    found = []
    for label in {*wanted, *given}:
        right = sum(w == g == label for w, g in zip(wanted, given, strict=True))
        found.append(2 * right / (list(wanted).count(label) + list(given).count(label)))
    return sum(found) / len(found) if found else 0.0


class Classification:
    """Labels: cross-entropy over them, accuracy and macro F1; see `core.objective.Objective`.

    After `prepare`: train, held_out_rows: encoded texts. shown: the held-out ones, for people.
    """

    def __init__(self, config: RunConfig) -> None:
        if config.data is None:
            raise BadInput(
                f"{config.base} is an encoder, which gives labels to texts; the built-in tasks want written answers.",
                "Give it a file with text,label (--data), or choose a language model as base.",
            )
        self.config = config
        data = read_labelled(Path(config.data))
        self._texts, held = split_labelled(data, config.train.held_out, config.seed)
        self._held, self.notes = first_held_out(held, config)
        self.loading: dict[str, Any] = {"labels": data.labels, "head_seed": config.seed}

    def prepare(self, base: Base) -> None:
        self.tokenizer, self.labels = base.tokenizer, base.labels
        setattr(base.model, READS_PAIRS, any(e.pair is not None for e in self._texts))
        train = encode_texts(base.tokenizer, self._texts, base.labels)
        held = encode_texts(base.tokenizer, self._held, base.labels)
        fits = fitting([len(e.ids) for e in train], [len(e.ids) for e in held], self.config, base)
        self.train = [train[i] for i in fits.train]
        self.held_out_rows = [held[i] for i in fits.held_out]
        self.shown = [self._held[i].shown for i in fits.held_out]
        self.lengths = [len(e.ids) for e in self.train]
        self.held_out = len(self.held_out_rows)
        self.notes = (*base.notes, *self.notes, *fits.notes)

    def batch(self, rows: Sequence[int]) -> TextBatch:
        return stack([self.train[i] for i in rows], pad_id(self.tokenizer))

    def loss_sum(self, model: Any, batch: TextBatch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(label_logits(model, batch), batch.labels, reduction="sum")

    def score(self, model: Any, batch_size: int, world: World = ALONE) -> Scores:
        rows = self.held_out_rows
        if not rows:
            return Scores(None, None, 0)
        device = next(model.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))  # less padding
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        mine: list[tuple[float, list[int]]] = []
        with evaluating(model):
            for part in world.part(parts):
                batch = stack([rows[i] for i in part], pad_id(self.tokenizer)).to(device)
                logits = label_logits(model, batch)
                summed = float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
                mine.append((summed, logits.argmax(1).tolist()))
        given, loss = [0] * len(rows), 0.0
        for part, (summed, labels) in zip(parts, world.together(mine, len(parts)), strict=True):
            loss += summed
            for i, label in zip(part, labels, strict=True):
                given[i] = label
        wanted = [row.label for row in rows]
        right = [w == g for w, g in zip(wanted, given, strict=True)]
        samples = tuple(
            {"prompt": text, "reference": self.labels[w], "output": self.labels[g], "right": w == g}
            for text, w, g in list(zip(self.shown, wanted, given, strict=True))[:SAMPLES]
        )
        return Scores(sum(right) / len(rows), loss / len(rows), len(rows), macro_f1(wanted, given), {}, samples)


def encoded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> EncodedText:
    """A text that has no label yet (its number is 0).

    Args:
        text: to be labelled; for a model that was trained on pairs, the two with an empty line between them.

    Raises:
        BadInput: it is longer than the model reads.
    """
    one = LabelledText(text, None, "")
    if getattr(model, READS_PAIRS, False):
        first, gap, second = text.partition("\n\n")
        one = replace(one, text=first, pair=second) if gap else one
    ((ids, types),) = tokens_of(tokenizer, [one])
    context = context_tokens(model)
    if context is not None and len(ids) > context:
        raise BadInput(f"The text has {len(ids)} tokens, and this model reads {context} at most.", "Shorten the text.")
    return EncodedText(ids, types, 0)


def probabilities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[str, float]]:
    """Each label with its probability, the likeliest first.

    Args:
        text: as `encoded` takes it.

    Raises:
        BadInput: as `encoded`.
    """
    row = encoded(model, tokenizer, text)
    device = next(model.parameters()).device
    with evaluating(model):
        logits = label_logits(model, stack([row], pad_id(tokenizer)).to(device))
    shares = logits.softmax(1)[0].tolist()
    return sorted(zip(labels_of(model), shares, strict=True), key=lambda pair: -pair[1])


def labels_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """'positive (93 %), negative (7 %)': the five likeliest labels.

    Raises:
        BadInput: as `probabilities`.
    """
    found = probabilities(model, tokenizer, text)
    shown = ", ".join(f"{label} ({100 * share:.0f} %)" for label, share in found[:5])
    return shown + (f", and {len(found) - 5} more" if len(found) > 5 else "")
