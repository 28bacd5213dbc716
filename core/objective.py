"""What a run learns, and how well it has: the answers of a language model, or the labels of a classifier.

The training loop is the same for both (core/train.py). It reads its data through an objective, hands it numbers of
training examples and gets a batch, has it compute a loss to be summed over the batches of a step, and asks it for
scores. `CausalLM` is here; `Classification` is in core/classify.py. Which one a run has is told by its base.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from core.base import CLASSIFICATION, Base, context_tokens, is_classifier, kind_of_base, locate
from core.batches import Batch, collate
from core.config import EMBEDDED, RunConfig
from core.distributed import ALONE, World
from core.encoded import encoded
from core.errors import BadInput
from core.evaluate import Item, answer_loss, answer_loss_sum, item_of, score, stream
from core.material import SCORING_SEED, dialogues
from core.template import Encoded, Message, dialogue, pad_id, template_of
from core.world import SKILLS, Split, examples, grade, hopeful

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 4


class Counted(Protocol):
    """A batch as the loop sees it. count: what its loss is a sum over: answer tokens, or labels."""

    @property
    def count(self) -> int: ...

    def part(self, rank: int, size: int) -> Counted:
        """The rows of one of `size` processes; if none is left for it, a row that counts nothing."""

    def to(self, device: torch.device) -> Counted:
        """The same on another device."""


@dataclass(frozen=True)
class Scores:
    """How well a model does on what was held out.

    share: right ones among the items, 0..1; None without any. loss: mean in nats, an answer's token or a label; None
    without any. macro_f1: for labels. skills: the base's old skills, name -> share right. samples: of a few items what
    was asked, wanted and answered.
    """

    share: float | None
    loss: float | None
    items: int
    macro_f1: float | None = None
    skills: dict[str, float] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()


class Objective(Protocol):
    """The data is read when it is made, so that a mistake in a file shows before a base is loaded.

    loading: what `core.base.load_base` needs to know. After `prepare`: lengths: tokens of each training example;
    held_out: how many are scored; notes: what a person should know before training.
    """

    loading: dict[str, Any]
    lengths: list[int]
    held_out: int
    notes: tuple[str, ...]

    def prepare(self, base: Base) -> None:
        """Encode the data with the base's tokenizer.

        Raises:
            BadInput: nothing of it fits the length limit.
        """

    def batch(self, rows: Sequence[int]) -> Counted:
        """The training examples with these numbers."""

    def loss_sum(self, model: Any, batch: Any) -> torch.Tensor:
        """Sum of the cross-entropy over what the batch counts, in nats."""

    def score(self, model: Any, batch_size: int, world: World = ALONE) -> Scores:
        """Score the held-out examples; deterministic, and the same for every run on the same data. The processes of
        `world` share the work; each gets the whole result."""


def objective_for(config: RunConfig) -> Objective:
    """The objective that goes with the base of `config`, with its data read.

    Raises:
        BadInput: the data cannot be read, or is not what such a base learns from.
        BaseUnavailable: the base cannot be found.
    """
    locate(config.base, config.revision, weights=False)  # a hub id: fetches the config.json that tells its kind
    if kind_of_base(config.base, config.revision) == CLASSIFICATION:
        from core.classify import Classification

        return Classification(config)
    return CausalLM(config)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_new_tokens: int,
    temperature: float = 0.0,
    *,
    seed: int | None = None,
) -> Generator[str, None, bool]:
    """What a model says: a language model's answer, a text per token as `core.evaluate.stream` gives it; or in one text
    a classifier's labels for the last message with their probabilities.

    Raises:
        BadInput: as `core.evaluate.stream` and `core.classify.probabilities`.
    """
    if is_classifier(model):
        from core.classify import labels_text

        yield labels_text(model, tokenizer, messages[-1].content)
        return True
    return (yield from stream(model, tokenizer, messages, max_new_tokens, temperature, seed=seed))


def fitting(lengths: Sequence[int], held_out: Sequence[int], config: RunConfig, base: Base) -> _Fitting:
    """Which examples are short enough for the run's limit and the base's context.

    Args:
        lengths, held_out: tokens of each training and of each held-out example.

    Raises:
        BadInput: no training example is.
    """
    asked = config.train.max_length
    context = context_tokens(base.model)
    limit = min(asked, context or asked)
    notes = []
    if limit < asked:
        notes.append(f"{base.name} reads {limit} tokens at most, so that is the limit, not {asked}.")
    train = [i for i, n in enumerate(lengths) if n <= limit]
    if len(train) < len(lengths):
        notes.append(f"{len(lengths) - len(train)} examples are longer than {limit} tokens and are left out.")
    if not train:
        raise BadInput(
            f"Every example is longer than the limit of {limit} tokens.",
            f"Raise max_length to at least {min(lengths)}, or shorten the examples."
            if limit < (context or math.inf)
            else "Shorten the examples, or choose a base that reads more.",
        )
    short = [i for i, n in enumerate(held_out) if n <= limit]
    if len(short) < len(held_out):
        notes.append(f"{len(held_out) - len(short)} held-out rows are longer than {limit} tokens and are not scored.")
    return _Fitting(train, short, notes)


@dataclass(frozen=True)
class _Fitting:
    """Numbers of the examples that fit, and what to say about the others."""

    train: list[int]
    held_out: list[int]
    notes: list[str]


def first_held_out(rows: list[Any], config: RunConfig) -> tuple[list[Any], tuple[str, ...]]:
    """At most as many held-out rows as the run scores, and a note if that leaves some out."""
    most = config.train.eval_items
    if len(rows) <= most:
        return rows, ()
    return rows[:most], (f"Of {len(rows)} held-out rows the first {most} are scored.",)


def world_items(name: str, split: Split, count: int, seed: int) -> list[Item]:
    """Questions of the small world, checked by their own exact grader."""
    return [
        Item(
            dialogue(e.prompt, e.completion).messages[:1],
            e.completion,
            partial(grade, name, e),
            partial(hopeful, name, e),
        )
        for e in examples(name, split, count, seed)
    ]


class CausalLM:
    """Next tokens: the loss counts the answers' tokens alone, and a held-out question is right when the answer that the
    model generates is (by the task's grader, or letter for letter on a person's own data).

    After `prepare`: train, held_out_rows: encoded examples. items: the held-out ones as questions. skills: the base's
    old skills, likewise.
    """

    def __init__(self, config: RunConfig) -> None:
        loop = config.train
        self.config = config
        self.loading: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        self.skills: dict[str, list[Item]] = {}
        if config.base == EMBEDDED and loop.skill_items:
            self.skills = {name: world_items(name, "heldout", loop.skill_items, SCORING_SEED) for name in SKILLS}
        self._dialogues, self._held = dialogues(config)
        if config.task is not None:
            self.items = world_items(config.task, "heldout", loop.eval_items, SCORING_SEED)
        else:
            self._held, self.notes = first_held_out(self._held, config)
            self.items = [item_of(d) for d in self._held]

    def prepare(self, base: Base) -> None:
        self.tokenizer = base.tokenizer
        train, held = encoded(base, self._dialogues), encoded(base, self._held)
        fits = fitting([len(e.ids) for e in train], [len(e.ids) for e in held], self.config, base)
        self.train: list[Encoded] = [train[i] for i in fits.train]
        self.held_out_rows: list[Encoded] = [held[i] for i in fits.held_out]
        self.items = [self.items[i] for i in fits.held_out]
        self.lengths = [len(e.ids) for e in self.train]
        self.held_out = len(self.items)
        self.notes = (template_of(base.tokenizer).sentence, *base.notes, *self.notes, *fits.notes)

    def batch(self, rows: Sequence[int]) -> Batch:
        return collate([self.train[i] for i in rows], pad_id(self.tokenizer))

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        return answer_loss_sum(model, batch.ids, batch.labels)

    def score(self, model: Any, batch_size: int, world: World = ALONE) -> Scores:
        loss = answer_loss(model, self.tokenizer, self.held_out_rows, batch_size=batch_size, world=world)
        scored = score(model, self.tokenizer, self.items, world, whole=SAMPLES)
        skills = {name: score(model, self.tokenizer, part, world, whole=0).share for name, part in self.skills.items()}
        rows = list(zip(self.items, scored.answers, scored.right, strict=True))[:SAMPLES]
        samples = tuple(
            {"prompt": item.messages[-1].content, "reference": item.reference, "output": text, "right": right}
            for item, text, right in rows
        )
        return Scores(scored.share if self.items else None, loss, len(self.items), None, skills, samples)
